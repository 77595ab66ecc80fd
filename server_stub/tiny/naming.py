"""Naming the attributes of a picture by the small CLIP: zero-shot, among the ways of saying each value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.clip import Clip
from server_stub.tiny.world import words

__all__ = ["ATTRIBUTES", "Namer"]

_PHRASES: dict[str, tuple[words.Table, tuple[str, ...]]] = {
    "shape": (words.SHAPES, ("a {}",)),
    "colour": (words.COLOURS, ("a {} thing", "something {}")),
    "pattern": (words.PATTERNS, ("a {} thing",)),
    "background": (words.COLOURS | words.PLACES, words.BACKGROUND_FORMS),
    "style": (words.STYLE_PREFIXES, ("{} something",)),
}
ATTRIBUTES = tuple(_PHRASES)
_SENTENCES = ("{}", "a photo of {}", "a picture of {}")


def _texts(attribute: str, value: str) -> list[str]:
    table, forms = _PHRASES[attribute]
    spoken = forms if value not in words.PLACES else ("{}",)
    phrases = [form.format(said) for form in spoken for said in table[value]]
    return phrases if attribute == "style" else [s.format(p) for s in _SENTENCES for p in phrases]


class Namer:
    """Names shape, colour, pattern, background and style; texts are encoded once."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._heads = {a: self._head(a) for a in ATTRIBUTES}

    def _head(self, attribute: str) -> tuple[list[str], NDArray[np.float32]]:
        values = list(_PHRASES[attribute][0])
        means = [self._clip.text_features(_texts(attribute, v)).mean(axis=0) for v in values]
        return values, np.stack([m / np.linalg.norm(m) for m in means])

    def name(self, images: Sequence[Image.Image]) -> list[dict[str, str]]:
        """Return attribute -> value for each picture."""
        features = self._clip.image_features(images)
        best = {a: (features @ rows.T).argmax(axis=1) for a, (_, rows) in self._heads.items()}
        return [{a: self._heads[a][0][best[a][i]] for a in ATTRIBUTES} for i in range(len(images))]
