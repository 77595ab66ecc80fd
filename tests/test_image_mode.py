"""Learning a word from a host that only draws."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from blackbox_ti.booked import BookedEndpoint
from blackbox_ti.budget import Caps
from blackbox_ti.cli import main
from blackbox_ti.concept import load_concept
from blackbox_ti.errors import BudgetSpentError, BudgetTooSmallError, InputError, ResumeError, ScorerError
from blackbox_ti.inversion import InversionResult, StopReason, invert
from blackbox_ti.ledger import Ledger, RunIdentity
from blackbox_ti.run_folder import result_record
from blackbox_ti.scorers import CallableScorer
from blackbox_ti.settings import InversionSettings
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import ImagesReply, ImagesRequest, Limits
from tests.fake_host import FakeHost, fake_endpoint
from tests.painter import WANTED, colour, likeness, painter, references
from tests.test_cli import url

__all__ = ["url"]

SMALL = InversionSettings(
    max_forwards=1600,
    search_steps=2,
    search_guidance_scale=1.0,
    dimension=6,
    sigma=1.0,
    initializer_token="dog",
    seed=5,
    objective="images",
)
SCORER = CallableScorer(likeness, "likeness")


def _off(embedding: Embedding) -> float:
    """How far a word's colour is from the one wanted."""
    return float(np.abs(colour(embedding["text"]) - WANTED).mean())


class _Watched:
    """A host that notes what is asked, may be read slowly, and may fail at a label."""

    def __init__(self, endpoint: Any, fail_at: str = "", error: BaseException | None = None) -> None:
        self._endpoint, self._fail_at, self._error = endpoint, fail_at, error
        self.asked: list[tuple[str, ImagesRequest]] = []

    def __getattr__(self, name: str) -> Any:
        assert name not in ("register_concept", "delete_concept", "losses"), "image mode never does this"
        return getattr(self._endpoint, name)

    def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
        self.asked.append((label, request))
        if label == self._fail_at and self._error:
            raise self._error
        reply: ImagesReply = self._endpoint.images(request, label=label, key=key)
        return reply


def _invert(host: Any = None, settings: InversionSettings = SMALL, **options: Any) -> InversionResult:
    return invert(host or painter(), references(), settings, **{"scorer": SCORER, **options})


def test_a_host_that_only_draws_teaches_a_word() -> None:
    """Its colour comes near the one wanted; scores rise; the cost is what the host counted, and within the cap."""
    host = painter()
    result = _invert(host, SMALL.model_copy(update={"objective": "auto"}))
    assert _off(result.embedding) < 0.4 * _off(result.initial_embedding)
    assert result.heldout_score_before is not None
    assert result.heldout_score_after is not None
    assert result.heldout_score_before < result.heldout_score_after <= 0
    assert result.heldout_loss_before is result.heldout_loss_after is None
    assert result.forwards == host.usage().forwards <= SMALL.max_forwards
    assert result.queries == host.usage().queries
    assert (result.objective, result.scorer) == ("images", "likeness")
    assert all(p.loss is None and p.score is not None and p.score <= 0 for p in result.history)


def test_the_plan_is_the_bill() -> None:
    """Forwards, queries and money of the whole run are known before it, by the books of both sides."""
    host = painter()
    result = _invert(host)
    assert result.stop_reason is StopReason.PLAN_FINISHED
    cost = result.plan.cost(result.card)
    assert (cost.forwards, cost.queries) == (result.forwards, result.queries)
    assert result.plan.total == result.forwards
    assert "pictures (2 steps, guidance 1, 8 pixels)" in result.plan.describe()
    guided = _invert(settings=SMALL.model_copy(update={"search_guidance_scale": 3.0}))
    assert guided.plan.sample_forwards == 4
    assert guided.forwards <= SMALL.max_forwards


def test_a_budget_that_does_not_pay_for_one_generation_says_what_would() -> None:
    """The number it names is enough."""
    with pytest.raises(BudgetTooSmallError) as told:
        _invert(settings=SMALL.model_copy(update={"max_forwards": 60}))
    least = int(str(told.value).split("at least ")[1].split()[0])
    assert _invert(settings=SMALL.model_copy(update={"max_forwards": least})).forwards <= least


def test_seeds_are_shared_within_a_generation_and_rotate_between() -> None:
    """The judge's seeds are the search's never, nor the report's."""
    watched = _Watched(painter())
    _invert(watched)
    seeds: dict[str, list[set[int]]] = {}
    for label, request in watched.asked:
        by_candidate: dict[int, list[int]] = {}
        for item in request.items:
            by_candidate.setdefault(item.candidate, []).append(item.seed)
        assert len({tuple(s) for s in by_candidate.values()}) == 1
        kind = "report" if label in ("heldout/before", "heldout/after") else label.split("/")[0]
        seeds.setdefault(kind, []).append(set(by_candidate[0]))
    search, judged, reported = seeds["search"], seeds["heldout"], seeds["report"]
    assert len(search) > 10
    assert len(set.union(*search)) == sum(map(len, search))
    assert len({frozenset(s) for s in judged}) == len({frozenset(s) for s in reported}) == 1
    assert not set.union(*search) & (judged[0] | reported[0])
    assert not judged[0] & reported[0]


@pytest.mark.parametrize("limits", [Limits(max_images=3, max_concurrency=4), Limits(max_candidates=2)])
def test_the_same_seed_learns_the_same_word_however_the_host_is_asked(limits: Limits) -> None:
    """Workers and packing change no bit."""
    whole, parts = _invert(painter(limits=Limits(max_concurrency=1))), _invert(painter(limits=limits))
    assert np.array_equal(whole.embedding["text"], parts.embedding["text"])
    other = _invert(settings=SMALL.model_copy(update={"seed": 6}))
    assert not np.array_equal(whole.embedding["text"], other.embedding["text"])


@pytest.mark.parametrize(("error", "reason"), [
    (KeyboardInterrupt(), StopReason.INTERRUPTED), (BudgetSpentError("no more"), StopReason.BUDGET_SPENT),
])  # fmt: skip
def test_an_early_end_keeps_the_best_so_far(error: BaseException, reason: StopReason) -> None:
    """Ctrl-C or a cap ends the search with an answer."""
    result = _invert(_Watched(painter(), "search/9", error))
    assert result.stop_reason is reason
    assert max(p.generation for p in result.history) == 8


def test_what_cannot_be_judged_is_refused_before_anything_is_asked() -> None:
    """No scorer, a broken one, a host without the objective."""
    watched = _Watched(painter())
    cases: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
        ({"scorer": None}, {}, InputError, "--clip or --scorer"),
        ({"scorer": CallableScorer(lambda _: [0.0], "short")}, {}, ScorerError, "1 numbers for 2"),
        ({"scorer": None}, {"scorer": "no.such:thing"}, ScorerError, "no.such"),
        ({}, {"objective": "loss"}, InputError, "'loss'"),
        ({}, {"search_steps": 500}, InputError, "--search-steps"),
    ]
    for options, changed, kind, words in cases:
        with pytest.raises(kind, match=words):
            _invert(watched, SMALL.model_copy(update=changed), **options)
    assert watched.asked == []


def test_a_scorer_is_named_in_the_settings_or_given() -> None:
    """The record says which it was; an object given wins."""
    named = SMALL.model_copy(update={"scorer": "tests.painter:likeness"})
    first, given = _invert(settings=named, scorer=None), _invert(settings=named)
    assert (first.scorer, given.scorer) == ("tests.painter:likeness", "likeness")
    assert np.array_equal(first.embedding["text"], given.embedding["text"])
    record = result_record(first)
    assert (record["objective"], record["scorer"]) == ("images", "tests.painter:likeness")
    assert record["heldout_score_after"] > record["heldout_score_before"]
    assert json.loads(json.dumps(record))["plan"]["pictures"]["num_inference_steps"] == 2


def test_a_host_that_ranks_losses_still_shows_its_pictures() -> None:
    """A reply mode is about losses alone."""
    host = FakeHost(reply_mode="rank")
    endpoint = fake_endpoint(host)
    result = invert(endpoint, references(), SMALL, scorer=SCORER)
    endpoint.close()
    assert result.heldout_score_after is not None
    assert result.plan.total == result.forwards == host.forwards <= SMALL.max_forwards
    assert not host.concepts


def _booked(folder: Path, endpoint: Any, settings: InversionSettings = SMALL) -> InversionResult:
    pictures = list(load_concept(references(), 8).pngs)
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger.begin(RunIdentity(endpoint="here", settings=settings.model_dump(), pictures=[str(len(pictures))]),
                     Caps(forwards=settings.max_forwards))  # fmt: skip
        return invert(BookedEndpoint(endpoint, ledger), references(), settings, scorer=SCORER)


def test_resuming_draws_nothing_twice_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    """A run cut short at several points and gone on with is the run never cut short, at its price."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole_host, host = painter(), painter()
    whole = _booked(tmp_path / "a", whole_host)
    for label in ("heldout/before", "search/2", "search/17"):
        with pytest.raises(RuntimeError):
            _booked(tmp_path / "b", _Watched(host, label, RuntimeError("killed")))
    resumed = _booked(tmp_path / "b", host)
    assert np.array_equal(whole.embedding["text"], resumed.embedding["text"])
    assert resumed.heldout_score_after == whole.heldout_score_after
    assert host.usage() == whole_host.usage()
    replayed = _Watched(painter())
    assert np.array_equal(_booked(tmp_path / "b", replayed).embedding["text"], whole.embedding["text"])
    assert replayed.asked == []


def test_another_scorer_is_another_run(tmp_path: Path) -> None:
    """The search would go another way, and says so instead of mixing the two."""
    _booked(tmp_path, painter())
    with pytest.raises(ResumeError, match="scorer"):
        _booked(tmp_path, painter(), SMALL.model_copy(update={"scorer": "tests.painter:likeness"}))


def test_the_book_keeps_each_picture_once(tmp_path: Path) -> None:
    """Its size is that of the pictures it paid for, base64 and little else."""
    host = painter()
    sent = 0

    class Counting(_Watched):
        def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
            nonlocal sent
            reply = super().images(request, label=label, key=key)
            sent += sum(len(p) for p in reply.images if p)
            return reply

    _booked(tmp_path, Counting(host))
    _booked(tmp_path, host)
    with Ledger(tmp_path / "ledger.sqlite", create=False) as ledger:
        operations = ledger.operations()
        replies = sum(len((ledger.find(o.name) or o).reply or b"") for o in operations)
        assert ledger.faults() == []
    assert sent < replies < sent + 1000 * len(operations) + 20 * host.usage().queries
    assert (tmp_path / "ledger.sqlite").stat().st_size < 2 * replies + 200_000


class _Listening(httpx.BaseTransport):
    """A wire that keeps every byte sent over it."""

    def __init__(self, host: FakeHost) -> None:
        self._way = host.transport()
        self.sent: list[bytes] = []
        self.paths: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        self.sent.append(str(request.url).encode() + str(request.headers).encode() + body)
        self.paths.append(request.url.path)
        return self._way.handle_request(request)


def _forms(picture: Image.Image) -> Iterator[bytes]:
    """What a picture might leave as: raw, PNG, JPEG, WebP, each also in base64, whole or in part."""
    files = [picture.tobytes()]
    for kind in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        picture.save(buffer, format=kind)
        files.append(buffer.getvalue())
    for data in files:
        middle = data[len(data) // 3 : len(data) // 3 + 60]
        yield middle
        for shift in range(3):
            yield base64.b64encode(data[len(data) // 3 + shift :][:60])[:76]


def test_the_pictures_never_leave_the_machine(tmp_path: Path) -> None:
    """Nothing registers them, and in no byte sent is there any part of them, in any of the forms it could take."""
    noise = np.random.default_rng(99).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    planted = Image.fromarray(noise)
    host = FakeHost()
    wire = _Listening(host)
    endpoint = fake_endpoint(http=wire)
    result = invert(endpoint, [planted], SMALL, scorer=SCORER)
    endpoint.close()
    assert result.queries > 100
    assert set(wire.paths) == {"/v1/model", "/v1/vocabulary", "/v1/images"}
    everything = b"\n".join(wire.sent)
    forms = list(_forms(planted))
    assert not [form for form in forms if form in everything]
    assert result.concept_sha256.encode() not in everything
    loss_wire = _Listening(host)
    other = fake_endpoint(http=loss_wire)
    invert(other, [planted], SMALL.model_copy(update={"objective": "loss", "max_forwards": 400}))
    other.close()
    assert [form for form in forms if form in b"\n".join(loss_wire.sent)], "the listener would have heard them"


@pytest.fixture
def host() -> FakeHost:
    """The host behind `url`."""
    return FakeHost(dim=16)


def _optimize(url: str, folder: Path, *more: str) -> int:
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for i, picture in enumerate(references()):
        picture.save(images / f"{i}.png")
    common = ["--endpoint", url, "--images", str(images), "--out", str(folder / "run"), "--max-forwards", "1500"]
    way = ["--objective", "images", "--search-steps", "2", "--search-guidance-scale", "1", "--dimension", "6"]
    return main(["optimize", *common, *way, *more])


def test_the_command_line_tells_the_cost_first_and_scores_after(
    url: str, tmp_path: Path, host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dry run's numbers are the bill's; what is reported is a score; the same command again asks nothing."""
    scorer = ["--scorer", "tests.painter:likeness"]
    assert _optimize(url, tmp_path, *scorer, "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert not host.receipts
    assert _optimize(url, tmp_path, *scorer, "--dry-run") == 0
    assert "pictures (2 steps" in capsys.readouterr().out
    assert _optimize(url, tmp_path, *scorer) == 0
    err = capsys.readouterr().err
    assert "held-out score -" in err
    assert "loss" not in err
    assert told["total_forwards"] == host.forwards <= 1500
    assert told["total_queries"] == sum(r.queries for r in host.receipts) == host.forwards // 2
    assert told["total_price_micros"] == sum(r.price_micros for r in host.receipts) > 0
    assert not host.concepts
    assert main(["optimize", "--resume", str(tmp_path / "run"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["objective"], again["scorer"]) == ("images", "tests.painter:likeness")
    assert told["total_forwards"] == host.forwards


def test_the_command_line_caps_pictures(
    url: str, tmp_path: Path, host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    """A query is a picture; the search ends at the cap."""
    scorer = ["--scorer", "tests.painter:likeness"]
    assert _optimize(url, tmp_path, *scorer, "--max-queries", "300", "--json") == 0
    assert json.loads(capsys.readouterr().out)["stop_reason"] == "budget_spent"
    assert 200 < sum(r.queries for r in host.receipts) <= 300


def test_the_command_line_names_what_is_wrong(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No judge, no such scorer, an objective nobody knows, a size that is no multiple of 8."""
    cases = [
        (_optimize(url, tmp_path), "--clip or --scorer"),
        (_optimize(url, tmp_path, "--scorer", "nowhere:f"), "PYTHONPATH"),
        (_optimize(url, tmp_path, "--objective", "beauty"), "--objective"),
        (_optimize(url, tmp_path, "--search-size", "20"), "--search-size"),
    ]
    told = capsys.readouterr().err
    for code, words in cases:
        assert code == 2
        assert words in told
    assert "Traceback" not in told
