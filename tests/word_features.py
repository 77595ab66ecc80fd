"""CLIP's features of a text with a word's vectors in it, computed from the states of the text tower."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.clip import Clip
from blackbox_ti.text_tower import TextTower


def word_features(
    tower: TextTower, clip: Clip, template: str, vectors: NDArray[np.float32], stand_ins: Sequence[str]
) -> NDArray[np.float32]:
    """Return unit vectors (n, C) of `template` filled in with words of vectors (n, T, D)."""
    ends = tower.word_states(template, vectors, stand_ins)[:, 0]
    features = ends @ clip.model.text_projection.detach().numpy()
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True), dtype=np.float32)
