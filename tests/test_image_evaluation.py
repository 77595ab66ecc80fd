"""Candidates to numbers through pictures."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.endpoint import Endpoint
from blackbox_ti.errors import InputError, PlaceholderError, ProtocolError, RejectedError, ScorerError
from blackbox_ti.evaluation import Evaluator
from blackbox_ti.image_evaluation import ImageEvaluator, ImageSample, PictureSettings, cost_of_bank
from blackbox_ti.scorers import CallableScorer, Scorer
from blackbox_ti.wire import Charge, ImagesReply, ImagesRequest, Limits, Prices, Problem
from tests.fake_host import FakeHost, png
from tests.painter import DIM, likeness, painter

PROMPTS = ["a photo of <sks>", "a rendering of <sks>", "the <sks>"]
SETTINGS = PictureSettings(num_inference_steps=4, guidance_scale=2.0, size=8)


class _Heard:
    """An endpoint that notes every request."""

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint
        self.asked: list[tuple[str, ImagesRequest]] = []

    def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
        self.asked.append((label, request))
        reply: ImagesReply = self._endpoint.images(request, label=label, key=key)
        return reply


def _evaluator(
    endpoint: Any = None,
    limits: Limits | None = None,
    scorer: Scorer | Callable[[list[Image.Image]], Any] = likeness,
    pictures: PictureSettings = SETTINGS,
) -> ImageEvaluator:
    card = painter(limits=limits).describe()
    judge = scorer if isinstance(scorer, Scorer) else CallableScorer(scorer)
    return ImageEvaluator(endpoint or painter(), card, "<sks>", PROMPTS, pictures, judge)


def _candidates(count: int) -> dict[str, NDArray[np.float32]]:
    return {"text": np.random.default_rng(1).normal(0, 1, (count, 1, DIM)).astype(np.float32)}


BANK = _evaluator().bank("search", 7, np.random.default_rng(0))


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(8, 70), st.integers(1, 3))
def test_limits_change_the_requests_and_not_the_scores(
    candidates: int, images: int, forwards: int, concurrency: int
) -> None:
    """However the work is cut and however many workers there are, every number is the same, and so is the cost."""
    whole = _evaluator().scores(_candidates(5), BANK, "search/1")
    limits = Limits(max_candidates=candidates, max_images=images, max_forwards=forwards, max_concurrency=concurrency)
    heard = _Heard(painter())
    evaluator = _evaluator(heard, limits)
    parts = evaluator.scores(_candidates(5), BANK, "search/1")
    assert np.array_equal(whole.fitness, parts.fitness)
    assert evaluator.spent.queries == 5 * len(BANK)
    assert evaluator.spent.forwards == 5 * len(BANK) * 8
    for _, request in heard.asked:
        assert len(request.items) <= min(images, forwards // 8)
        assert request.embeddings["text"].shape[0] <= candidates
    assert len({label for label, _ in heard.asked}) == len(heard.asked)


def test_fitness_is_the_scores_mean_with_its_sign_changed() -> None:
    """The search minimises, a scorer's numbers are the larger the better."""
    scores = _evaluator().scores(_candidates(4), BANK, "x")
    assert scores.losses is not None
    assert all(row is not None and row.shape == (len(BANK),) and (row >= 0).all() for row in scores.losses)
    assert [scores.mean(c) for c in range(4)] == pytest.approx(list(scores.fitness))


def test_all_candidates_are_drawn_from_the_same_seeds_and_prompts() -> None:
    """One bank a generation, whichever request a candidate is in."""
    heard = _Heard(painter())
    _evaluator(heard, Limits(max_images=7)).scores(_candidates(3), BANK, "x")
    drawn = [(request.prompts[item.prompt], item.seed) for _, request in heard.asked for item in request.items]
    assert Counter(drawn) == Counter({(PROMPTS[s.prompt], s.seed): 3 for s in BANK})
    assert {request.num_inference_steps for _, request in heard.asked} == {4}


def test_banks_spread_prompts_evenly_and_share_no_seed() -> None:
    """Another generator, another bank; a host that takes few prompts is asked few."""
    first, other = (_evaluator().bank("search", 60, np.random.default_rng(n)) for n in (1, 2))
    assert set(Counter(s.prompt for s in first).values()) == {20}
    assert not {s.seed for s in first} & {s.seed for s in other}
    assert len({s.seed for s in first}) == 60
    few = _evaluator(limits=Limits(max_prompts=2)).bank("heldout", 10, np.random.default_rng(0))
    assert len({s.prompt for s in few}) == 2


def test_a_rejected_candidate_fails_alone() -> None:
    """Its neighbours keep their scores; it comes last; the scorer never sees it."""
    candidates = _candidates(3)
    candidates["text"][1] *= 1e4
    seen: list[int] = []

    def counted(pictures: Sequence[Image.Image]) -> list[float]:
        seen.append(len(pictures))
        return likeness(pictures)

    scores = _evaluator(scorer=counted).scores(candidates, BANK, "x")
    assert scores.losses is not None
    assert scores.losses[1] is None
    assert int(scores.fitness.argmax()) == 1
    assert seen == [2 * len(BANK)]


def test_a_generation_all_rejected_is_no_accident() -> None:
    """Nothing is scored, and no candidate is better than another."""
    candidates = _candidates(2)
    candidates["text"] *= 1e4
    scores = _evaluator().scores(candidates, BANK, "x")
    assert scores.losses == [None, None]
    assert scores.fitness[0] == scores.fitness[1]


def test_the_models_own_size_is_left_to_the_model() -> None:
    """Another is asked for by number."""
    for size, asked in ((8, None), (16, 16)):
        heard = _Heard(painter())
        _evaluator(heard, pictures=PictureSettings(2, 1.0, size)).scores(_candidates(1), BANK[:1], "x")
        assert (heard.asked[0][1].height, heard.asked[0][1].width) == (asked, asked)


def test_the_scorer_is_told_what_each_picture_was_made_from() -> None:
    """Prompts come in the pictures' order."""

    class Reader:
        name = "reader"

        def scores(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
            return [float(PROMPTS.index(p)) for p in prompts]

    evaluator: Evaluator[ImageSample] = _evaluator(scorer=Reader())
    scores = evaluator.scores(_candidates(2), BANK, "x")
    assert scores.losses is not None
    for row in scores.losses:
        assert row is not None
        assert list(-row) == [s.prompt for s in BANK]


class _Answering:
    """An endpoint that sends the pictures it is given, whatever was asked."""

    def __init__(self, *pictures: bytes | str) -> None:
        self.pictures = [p if isinstance(p, str) else base64.b64encode(p).decode() for p in pictures]

    def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
        return ImagesReply(images=list(self.pictures), charge=Charge(forwards=1, queries=1, price_micros=0))


@pytest.mark.parametrize(
    "picture",
    ["not base64!", b"no picture", png(size=(9, 8)), png()[:-12], png(size=(5000, 5000)), "A" * 14_000_000],
    ids=["no base64", "no picture", "another size", "cut off", "far too large", "too many bytes"],
)
def test_a_hosts_picture_is_decoded_with_suspicion(picture: bytes | str) -> None:
    """What is broken, too large, or of another size than asked is the host's error, never a crash."""
    with pytest.raises(ProtocolError):
        _evaluator(_Answering(picture)).scores(_candidates(1), BANK[:1], "x")


@pytest.mark.parametrize("limits", [Limits(max_image_bytes=40), Limits(max_image_pixels=60)])
def test_the_cards_own_limits_hold_for_pictures(limits: Limits) -> None:
    """A whole picture of the size asked is still too much if the card says so."""
    with pytest.raises(ProtocolError):
        _evaluator(_Answering(png()), limits).scores(_candidates(1), BANK[:1], "x")
    _evaluator(_Answering(png())).scores(_candidates(1), BANK[:1], "x")


def test_a_scorer_that_does_not_score_stops_the_run() -> None:
    """Its error, not a wrong number."""
    with pytest.raises(ScorerError, match="NaN"):
        _evaluator(scorer=lambda pictures: [float("nan")] * len(pictures)).scores(_candidates(1), BANK, "x")


class _Refusing:
    def __init__(self, code: str) -> None:
        self.code = code

    def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
        raise RejectedError("no", problem=Problem(status=422, code=self.code))


def test_a_taken_placeholder_found_out_by_the_host_is_told_as_one() -> None:
    """As in loss mode; other refusals stay what they are."""
    for code, kind in (("placeholder_taken", PlaceholderError), ("invalid_tensor", RejectedError)):
        endpoint: Endpoint = _Refusing(code)  # type: ignore[assignment]
        with pytest.raises(kind):
            _evaluator(endpoint).scores(_candidates(1), BANK, "x")


@pytest.mark.parametrize(
    ("pictures", "limits", "option"),
    [
        (PictureSettings(11, 1.0, 8), Limits(max_steps=10), "--search-steps"),
        (PictureSettings(10, 2.0, 8), Limits(max_forwards=19), "--search-steps"),
        (PictureSettings(10, 1.0, 64), Limits(max_image_pixels=4000), "--search-size"),
    ],
)
def test_pictures_the_host_would_not_make_are_refused_at_once(
    pictures: PictureSettings, limits: Limits, option: str
) -> None:
    """The error names the option to lower."""
    with pytest.raises(InputError, match=option):
        pictures.possible(limits)
    assert SETTINGS.possible(limits) is SETTINGS


def test_cost_counts_steps_pictures_and_money() -> None:
    """Steps a picture, twice with guidance; a query a picture."""
    card = FakeHost(prices=Prices(forward_micros=3, query_micros=7)).card
    cost = cost_of_bank(5, 2, SETTINGS, card)
    assert (cost.forwards, cost.queries, cost.price_micros) == (80, 10, 80 * 3 + 10 * 7)
    assert cost_of_bank(5, 2, PictureSettings(4, 1.0, 8), card).forwards == 40
