"""Where a search starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.clip import Clip
from blackbox_ti.concept import load_concept
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import InputError
from blackbox_ti.evaluation import LossEvaluator
from blackbox_ti.initialise import Start
from blackbox_ti.objective import BankSettings, draw_bank
from blackbox_ti.settings import InversionSettings
from blackbox_ti.start import choose_start, shortlist
from blackbox_ti.text_tower import TextTower
from blackbox_ti.wire import Sample
from server_stub.tiny import CLIP_DIR
from tests.fake_host import FakeHost, fake_endpoint, png

CONCEPT = load_concept([Image.new("RGB", (8, 8), (200, 30, 30))], 8)


class _Clip:
    """A CLIP that sees the word `star` in everything."""

    def image_features(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        return np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (len(images), 1))

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[1.0, 0.0] if "star" in t else [0.0, 1.0] for t in texts], dtype=np.float32)


CLIP: Clip = _Clip()  # type: ignore[assignment]


def _vocabularies(host: FakeHost) -> dict[str, Vocabulary]:
    return {"text": Vocabulary(list(host.words), host.table)}


def test_with_clip_the_words_like_the_pictures_race() -> None:
    """Attention comes first, then the word seen in the pictures; as many as the race takes."""
    host = FakeHost()
    starts = shortlist(InversionSettings(race=4), host.card, CONCEPT, _vocabularies(host), CLIP, None)
    assert len(starts) == 4
    assert "attention" in starts[0].description
    assert starts[1].description == "the word 'star'"
    assert np.allclose(starts[1].embedding["text"][0], host.table[host.words.index("star")])


class _CountingTower(TextTower):
    """A text tower that counts the words fitted with it."""

    fits = 0

    def fitted(self, *args: Any, **kwargs: Any) -> Any:
        self.fits += 1
        return super().fitted(*args, **kwargs)


@pytest.mark.parametrize(("race", "fits"), [(1, 0), (2, 1), (4, 3), (9, 4)])
def test_only_words_that_race_are_fitted(race: int, fits: int) -> None:
    """The attention, three phrases, four moves of them, then longer phrases: each when its turn comes."""
    clip = Clip(CLIP_DIR)
    tower = _CountingTower(clip)
    concept = load_concept([Image.new("RGB", (64, 64), (200, 30, 30))], 64)
    starts = shortlist(
        InversionSettings(race=race), FakeHost().card, concept, {"text": tower.vocabulary()}, clip, None, tower
    )
    assert len(starts) == race
    assert tower.fits == fits


def test_a_named_word_starts_alone() -> None:
    """No race where the user decided."""
    host = FakeHost()
    settings = InversionSettings(initializer_token="dog", num_vectors=2)
    (start,) = shortlist(settings, host.card, CONCEPT, _vocabularies(host), CLIP, None)
    assert start.embedding["text"].shape == (2, 8)


def test_without_clip_a_plain_word_is_the_start() -> None:
    """The vocabulary's plainest word, or an error that says what to give."""
    host = FakeHost()
    (start,) = shortlist(InversionSettings(), host.card, CONCEPT, _vocabularies(host), None, None)
    assert start.description == "the word 'photo'"
    odd = {"text": Vocabulary(["zyx", "wvu"], host.table[:2])}
    with pytest.raises(InputError, match="--initializer-token"):
        shortlist(InversionSettings(), host.card, CONCEPT, odd, None, None)


def test_the_race_is_won_by_the_lowest_loss_on_one_bank() -> None:
    """All are asked the same questions; one alone is not asked."""
    host = FakeHost()
    endpoint = fake_endpoint(host)
    evaluator = LossEvaluator(endpoint, endpoint.describe(), endpoint.register_concept([png()]), "<sks>", ["a <sks>"])
    starts = [Start({"text": (host.target + d)[None].astype(np.float32)}, str(d)) for d in (0.9, 0.1, 0.5)]

    def bank(size: int, turn: int) -> list[Sample]:
        return draw_bank(BankSettings(1, 1), size, np.random.default_rng(turn))

    assert choose_start(evaluator, starts, [(3, 8)], bank).description == "0.1"
    assert host.forwards == 24
    assert choose_start(evaluator, starts[:1], [], bank).description == "0.9"
    assert host.forwards == 24
    assert choose_start(evaluator, starts, [(3, 8), (2, 16)], bank).description == "0.1"
    assert host.forwards == 24 + 24 + 32
