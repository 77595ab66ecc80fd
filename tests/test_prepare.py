"""What a run has before its first charged call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.clip import Clip
from blackbox_ti.concept import load_concept
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import BudgetTooSmallError, ImageError, InputError, PlaceholderError, ScorerError
from blackbox_ti.initialise import whole_words
from blackbox_ti.objective import prompts_for
from blackbox_ti.prepare import choose_scorer, image_evaluator, loss_evaluator, prepare, search_subspace
from blackbox_ti.scorers import CallableScorer, ClipScorer
from blackbox_ti.settings import InversionSettings
from blackbox_ti.subspace import Embedding
from blackbox_ti.text_tower import TextTower
from blackbox_ti.wire import Encoder, ModelCard
from server_stub.tiny import CLIP_DIR
from tests.fake_clip import INDIFFERENT_CLIP
from tests.fake_host import FakeHost, fake_endpoint
from tests.painter import likeness, painter, references

PICTURES = [Image.new("RGB", (8, 8), (200, 30, 30)), Image.new("RGB", (8, 8), (30, 200, 30))]
SCORER = CallableScorer(likeness, "likeness")
DRAWN = InversionSettings(objective="images", search_steps=2, search_guidance_scale=1.0)


class _Told:
    """A host that says what it is told to say of itself, and shows the words it is given."""

    def __init__(self, encoders: Sequence[Encoder], tables: Mapping[str, Vocabulary]) -> None:
        self._card = FakeHost().card.model_copy(update={"encoders": list(encoders), "vocabulary": bool(tables)})
        self._tables = tables

    def describe(self) -> ModelCard:
        return self._card

    def vocabulary(self, encoder: str) -> Vocabulary | None:
        return self._tables.get(encoder)


def _of_two_encoders(shown: Sequence[str]) -> Any:
    """Return a host of the encoders `one` and `two`, of which it shows the words of those named."""
    fake = FakeHost()
    encoders = [fake.card.encoders[0].model_copy(update={"name": name}) for name in ("one", "two")]
    return _Told(encoders, {name: Vocabulary(list(fake.words), fake.table) for name in shown})


def test_preparing_costs_nothing_and_shows_no_picture() -> None:
    """The host is asked for its card and its words, and for nothing else."""
    host = FakeHost()
    ready = prepare(fake_endpoint(host), PICTURES, InversionSettings(dimension=4))
    assert {path for _, path in host.requests} == {"/v1/model", "/v1/vocabulary"}
    assert (host.forwards, host.concepts) == (0, {})
    assert ready.card == host.card
    assert len(ready.concept.pngs) == 2
    assert list(ready.vocabularies["text"].tokens) == list(host.words)
    assert ready.scorer is None


def test_only_the_starts_that_race_are_kept() -> None:
    """The plan says how many the budget pays for."""
    for budget, race in ((5000, 5), (900, 5), (400, 4)):
        settings = InversionSettings(dimension=4, max_forwards=budget, race=5)
        ready = prepare(_of_two_encoders(["one", "two"]), PICTURES, settings, clip=INDIFFERENT_CLIP)
        assert len(ready.starts) == ready.plan.race == race


def test_a_host_without_words_starts_at_the_origin_in_random_directions() -> None:
    """Nothing is known of where words lie."""
    ready = prepare(fake_endpoint(FakeHost(vocabulary=False)), PICTURES, InversionSettings(dimension=4))
    assert (ready.vocabularies, ready.plan.subspace) == ({}, "random")
    assert not ready.starts[0].embedding["text"].any()


def test_half_a_vocabulary_is_none() -> None:
    """A host that shows the words of one encoder of two starts as one that shows none."""
    for shown, expected in ((["one", "two"], {"one", "two"}), (["one"], set())):
        assert prepare(_of_two_encoders(shown), PICTURES, InversionSettings()).vocabularies.keys() == expected


@pytest.fixture(name="clip", scope="module")
def _bundled() -> Clip:
    return Clip(CLIP_DIR)


def test_the_words_of_a_public_text_encoder_stand_in_for_the_hosts(clip: Clip) -> None:
    """Where CLIP's own tower has the norms on the card, its words are the host's."""
    words = TextTower(clip).vocabulary()
    norms = np.linalg.norm(whole_words(words).embeddings, axis=1)
    encoder = Encoder(name="e", dim=words.embeddings.shape[1], norm_mean=norms.mean(), norm_std=norms.std())
    settings = InversionSettings(race=2, phrases=0)
    for shorter, expected in ((1.0, ["e"]), (0.9, [])):
        told = encoder.model_copy(update={"norm_mean": encoder.norm_mean * shorter})
        host: Any = _Told([told], {})
        assert list(prepare(host, PICTURES, settings, clip=clip).vocabularies) == expected


@pytest.mark.parametrize(
    ("settings", "images", "error"),
    [
        (InversionSettings(placeholder_token="cat"), PICTURES, PlaceholderError),
        (InversionSettings(placeholder_token=""), PICTURES, PlaceholderError),
        (InversionSettings(), [], ImageError),
        (InversionSettings(max_forwards=1), PICTURES, BudgetTooSmallError),
        (InversionSettings(objective="images"), PICTURES, InputError),
    ],
)
def test_what_cannot_be_used_is_refused_at_no_cost(
    settings: InversionSettings, images: list[Image.Image], error: type[Exception]
) -> None:
    """Placeholder, pictures, budget and judge are held against the host before it is asked anything that costs."""
    host = FakeHost()
    with pytest.raises(error):
        prepare(fake_endpoint(host), images, settings)
    assert (host.forwards, host.concepts) == (0, {})


@pytest.mark.parametrize(("changed", "scorer"), [({}, SCORER), ({"scorer": "tests.painter:likeness"}, None)])
def test_a_scorer_that_would_not_be_asked_is_refused(changed: dict[str, Any], scorer: CallableScorer | None) -> None:
    """A host that offers losses is asked for them unless told otherwise, and then a scorer is a misunderstanding."""
    with pytest.raises(InputError, match="--objective images"):
        prepare(fake_endpoint(FakeHost()), references(), InversionSettings(**changed), scorer=scorer)


def test_the_scorer_is_the_one_given_then_the_one_named_then_clip() -> None:
    """Losses need none."""
    card, concept = painter().describe(), load_concept(references(), 8)
    named = DRAWN.model_copy(update={"scorer": "tests.painter:likeness"})
    assert choose_scorer(named, card, concept, INDIFFERENT_CLIP, SCORER) is SCORER
    found = choose_scorer(named, card, concept, INDIFFERENT_CLIP)
    assert found is not None
    assert found.name == "tests.painter:likeness"
    assert isinstance(choose_scorer(DRAWN, card, concept, INDIFFERENT_CLIP), ClipScorer)
    assert choose_scorer(InversionSettings(), FakeHost().card, concept, INDIFFERENT_CLIP) is None
    with pytest.raises(InputError, match="--clip or --scorer"):
        choose_scorer(DRAWN, card, concept, None)


def test_a_scorer_is_tried_on_the_references_with_a_prompt_each() -> None:
    """A mistake in it costs nothing, for no picture was bought."""
    seen: list[Any] = []

    def remembered(pictures: Sequence[Image.Image]) -> list[float]:
        seen.append([picture.size for picture in pictures])
        return [0.0] * len(pictures)

    card, concept = painter().describe(), load_concept(references(), 8)
    choose_scorer(DRAWN, card, concept, None, CallableScorer(remembered, "remembered"))
    assert seen == [[(8, 8), (8, 8)]]
    with pytest.raises(ScorerError, match="1 numbers for 2"):
        choose_scorer(DRAWN, card, concept, None, CallableScorer(lambda _: [0.0], "short"))


def test_the_settings_reach_what_asks_for_losses() -> None:
    """Pictures, prompts of an object or a style, timesteps and prompts at once."""
    settings = InversionSettings(learnable_property="style", t_min=0.25, t_max=0.75, prompts_at_once=3, dimension=4)
    endpoint = fake_endpoint(FakeHost())
    asks = loss_evaluator(endpoint, prepare(endpoint, PICTURES, settings), settings, "id")
    assert (asks.concept, asks.images, asks.placeholder_token) == ("id", 2, "<sks>")
    assert asks.prompts == prompts_for("style", "<sks>")
    bank = asks.bank("search", 40, np.random.default_rng(0))
    assert all(0.25 <= sample.t <= 0.75 for sample in bank)
    assert {sample.image for sample in bank} == {0, 1}
    assert len({sample.prompt for sample in bank}) == 3


def test_the_settings_reach_what_asks_for_pictures() -> None:
    """As the plan makes them, judged by the scorer; the references are not among what it holds."""
    host = painter()
    ready = prepare(host, references(), DRAWN, scorer=SCORER)
    asks = image_evaluator(host, ready, DRAWN, SCORER)
    assert (asks.pictures, asks.scorer, asks.prompts) == (ready.plan.pictures, SCORER, prompts_for("object", "<sks>"))
    assert asks.pictures.num_inference_steps == 2


ORIGIN: Embedding = {"text": np.full((2, 8), 0.5, np.float32)}


def _subspace(seed: int = 0, **changed: Any) -> Any:
    settings = InversionSettings(num_vectors=2, dimension=3, **changed)
    ready = prepare(fake_endpoint(FakeHost()), PICTURES, settings)
    return search_subspace(ready, ORIGIN, settings, np.random.default_rng(seed)), ready.plan


@pytest.mark.parametrize(("kind", "dimension"), [("pca", 6), ("random", 6), ("full", 16)])
def test_the_space_searched_is_the_plans(kind: str, dimension: int) -> None:
    """Of as many dimensions as it says, around the start; only random directions depend on the generator."""
    space, plan = _subspace(subspace=kind)
    assert space.dimension == plan.dimension == dimension
    np.testing.assert_array_equal(space.embed(np.zeros((1, dimension)))["text"][0], ORIGIN["text"])
    again, other = _subspace(subspace=kind)[0], _subspace(1, subspace=kind)[0]
    np.testing.assert_array_equal(space.axes["text"], again.axes["text"])
    assert np.array_equal(space.axes["text"], other.axes["text"]) == (kind != "random")


@pytest.mark.parametrize(
    ("changed", "holds"),
    [
        ({"whiten": False}, lambda space, _: np.allclose(np.linalg.norm(space.axes["text"].reshape(6, -1), axis=1), 1)),
        ({"add_mean": True}, lambda space, mean: np.allclose(space.origin["text"], ORIGIN["text"] + mean, atol=1e-6)),
    ],
)
def test_the_papers_axes_are_had_by_asking(
    changed: dict[str, Any], holds: Callable[[Any, NDArray[np.float32]], bool]
) -> None:
    """Of length 1, and about the mean word; neither is so unless asked for."""
    mean = FakeHost().table.mean(axis=0)
    assert holds(_subspace(subspace="pca", **changed)[0], mean)
    assert not holds(_subspace(subspace="pca")[0], mean)


def test_every_encoder_has_its_share_of_the_space() -> None:
    """Each vector of each encoder has as many axes as the others."""
    settings = InversionSettings(num_vectors=2, dimension=3)
    host = _of_two_encoders(["one", "two"])
    ready = prepare(host, PICTURES, settings)
    origin = dict.fromkeys(("one", "two"), ORIGIN["text"])
    space = search_subspace(ready, origin, settings, np.random.default_rng(0))
    assert space.dimension == ready.plan.dimension == 12
    for axes in space.axes.values():
        assert (axes.any(axis=2).sum(axis=0) == 3).all()
