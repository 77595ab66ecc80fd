"""Naming by a CLIP."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.clip import Clip
from server_stub.tiny.naming import ATTRIBUTES, Namer
from server_stub.tiny.world import words


class _Clip:
    """Sees red stars everywhere: features are how often a text says `red` or `star`, and a constant."""

    def image_features(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        return np.tile(np.array([[0.7, 0.7, 0.1]], dtype=np.float32), (len(images), 1))

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [[float("red" in t.split()), float("star" in t.split()), 0.5] for t in texts]
        return np.array(rows, dtype=np.float32)


def test_the_value_whose_words_are_nearest_is_named() -> None:
    """Every attribute gets one of its values; those the pictures show are found."""
    clip: Clip = _Clip()  # type: ignore[assignment]
    (named,) = Namer(clip).name([Image.new("RGB", (4, 4))])
    assert set(named) == set(ATTRIBUTES)
    assert named["shape"] == "star"
    assert named["colour"] == "red"
    assert named["pattern"] in words.PATTERNS
