"""What CLIP proposes to start from, and how a start is extended."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.clip import Clip
from blackbox_ti.concept import load_concept
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.initialise import Start, whole_words
from blackbox_ti.inversion import invert
from blackbox_ti.plan import Plan
from blackbox_ti.proposals import EXTENSIONS, Proposals
from blackbox_ti.settings import InversionSettings
from blackbox_ti.text_tower import TextTower
from server_stub.diffusers_engine import DiffusersEngine
from server_stub.in_process import InProcessEndpoint
from server_stub.tiny import CLIP_DIR
from server_stub.tiny.world import concept_scenes, render
from tests.fake_host import FakeHost

CONCEPT = load_concept([Image.fromarray(render(s)) for s in concept_scenes(("heart", "orange", "striped"), 3, 0)], 64)


class _SeesStars:
    """A CLIP that sees the word `star` in everything."""

    def image_features(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        return np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (len(images), 1))

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[1.0, 0.0] if "star" in t else [0.0, 1.0] for t in texts], dtype=np.float32)


SEES_STARS: Clip = _SeesStars()  # type: ignore[assignment]


class _CountingTower(TextTower):
    """A text tower that counts the words fitted with it."""

    fits = 0

    def fitted(self, *args: Any, **kwargs: Any) -> Any:
        self.fits += 1
        return super().fitted(*args, **kwargs)


@pytest.fixture(name="clip", scope="module")
def _bundled() -> Clip:
    return Clip(CLIP_DIR)


def _proposals(clip: Clip, words: Vocabulary | None = None, **settings: Any) -> tuple[Proposals, _CountingTower]:
    tower = _CountingTower(clip)
    vocabularies = {"text": words or tower.vocabulary()}
    return Proposals(InversionSettings(**settings), CONCEPT, vocabularies, clip, tower), tower


def test_without_the_hosts_encoder_the_words_like_the_pictures_are_proposed() -> None:
    """Attention comes first, then the word seen in the pictures; nothing can be extended."""
    host = FakeHost()
    words = Vocabulary(list(host.words), host.table)
    proposals = Proposals(InversionSettings(), CONCEPT, {"text": words}, SEES_STARS)
    starts = list(islice(proposals.starts(), 4))
    assert "attention" in starts[0].description
    assert starts[1].description == "the word 'star'"
    assert np.allclose(starts[1].embedding["text"][0], host.table[host.words.index("star")])
    assert not proposals.extends


@pytest.mark.parametrize(("race", "fits"), [(1, 0), (2, 1), (4, 3), (9, 3)])
def test_only_words_that_are_asked_for_are_fitted(clip: Clip, race: int, fits: int) -> None:
    """The attention, three phrases, four moves of them, then plain words: each when its turn comes."""
    proposals, tower = _proposals(clip)
    assert len(list(islice(proposals.starts(), race))) == race
    assert tower.fits == fits


def test_a_start_in_plain_words_is_extended_by_words_and_moves(clip: Clip) -> None:
    """Each word taken out, words added, and two moves towards the pictures; all unlike one another."""
    proposals, tower = _proposals(clip)
    words = whole_words(tower.vocabulary())
    start = Start({"text": words.embeddings[[words.tokens.index("orange")]]}, "the words", "orange striped")
    extended = proposals.extended(start)
    assert len(extended) == EXTENSIONS
    assert [s.phrase for s in extended[:2]] == ["striped", "orange"]
    assert all({"orange", "striped"} < set(s.phrase.split()) for s in extended[2:-2])
    assert [s.moved for s in extended] == [False] * (EXTENSIONS - 2) + [True] * 2
    assert "moved towards the pictures" in extended[-1].description
    vectors = np.stack([s.embedding["text"].ravel() for s in extended])
    assert len(np.unique(vectors, axis=0)) == EXTENSIONS
    assert tower.fits == EXTENSIONS - 2


def test_a_start_that_says_more_than_its_words_keeps_it_among_others(clip: Clip) -> None:
    """Its words alone are tried as well; a word more is said beside the start itself, so its move is not lost."""
    proposals, tower = _proposals(clip)
    words = whole_words(tower.vocabulary())
    heart, star = (words.embeddings[[words.tokens.index(w)]] for w in ("heart", "star"))
    extended = proposals.extended(Start({"text": star}, "a star", "heart", moved=True))
    assert (extended[0].phrase, extended[0].moved) == ("heart", False)
    assert np.linalg.norm(extended[0].embedding["text"] - heart) < 0.5 * np.linalg.norm(star - heart)
    longer = extended[1]
    assert longer.moved
    assert longer.description == f"a star, and '{longer.phrase.replace('heart', '').strip()}'"
    said = longer.phrase.replace("heart", "star")
    target = tower.text_states(f"a photo of a {said}")
    states = tower.word_states("a photo of a {}", np.stack([longer.embedding["text"], star]), words.tokens[:2])
    missed = np.square(states - target).sum(axis=(1, 2))
    assert missed[0] < 0.2 * missed[1]


@pytest.mark.parametrize("num_vectors", [1, 2])
def test_however_few_words_there_are_a_start_has_as_many_extensions(clip: Clip, num_vectors: int) -> None:
    """Further moves stand in for words that are not there: what a race costs is known before it."""
    every = TextTower(clip).vocabulary()
    rows = [every.tokens.index(w + "</w>") for w in ("heart", "star", "red")]
    few = Vocabulary([every.tokens[i] for i in rows], every.embeddings[rows])
    proposals, _ = _proposals(clip, few, num_vectors=num_vectors)
    attention = next(proposals.starts())
    extended = proposals.extended(attention)
    assert len(extended) == EXTENSIONS
    assert [s.phrase for s in extended[:3]] != [""] * 3
    assert {s.embedding["text"].shape for s in extended} == {(num_vectors, 256)}


def test_a_long_phrase_leaves_room_for_moves(clip: Clip) -> None:
    """Ten at most are shorter."""
    proposals, tower = _proposals(clip)
    words = whole_words(tower.vocabulary())
    start = Start({"text": words.embeddings[:1]}, "many words", " ".join(words.tokens[:14]), moved=True)
    extended = proposals.extended(start)
    assert [s.moved for s in extended] == [False] * (EXTENSIONS - 2) + [True] * 2


class _ChosenError(Exception):
    """The search is about to begin."""


def _stop(plan: Plan, _start: Start) -> None:
    raise _ChosenError(plan)


def test_extending_a_winner_costs_what_the_plan_says(clip: Clip) -> None:
    """On the bundled model: a race of two, and one turn with the winner."""
    endpoint = InProcessEndpoint(DiffusersEngine.load("tiny", micro_batch=32))
    settings = InversionSettings(max_forwards=1400, race=2)
    with pytest.raises(_ChosenError) as chosen:
        invert(endpoint, CONCEPT.images(), settings, clip=clip, on_plan=_stop)
    (plan,) = chosen.value.args
    assert [len(race) for race in plan.races] == [1, 2]
    assert endpoint.usage().forwards == plan.race_cost == 2 * 16 + 12 * 8 + 3 * 32
