"""A word moved towards the pictures in CLIP's space, on the user's own machine; at no cost to the endpoint.

Words name what a picture shows; its colours and its manner they name in part, and there CLIP's similarity points the
way. It points well for a few steps only, and for some concepts not at all: what it proposes has to win a race.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.subspace import displaced
from blackbox_ti.text_tower import TextTower

__all__ = ["nudged"]

Array = NDArray[np.float64]
_DIFFERENCE: Final = 0.05


def nudged(
    tower: TextTower,
    vectors: NDArray[np.float32],
    templates: Sequence[str],
    image_features: NDArray[np.float32],
    axes: Array,
    stand_ins: Sequence[str],
    steps: Sequence[int],
) -> list[NDArray[np.float32]]:
    """Return a word's vectors (T, D) after each number of `steps` up CLIP's similarity to the pictures.

    A step has length 1 in the coordinates of `axes` (d, D), each as long as a natural step of a word;
    `image_features` (n, C) are unit vectors. The similarity's gradient is taken by forward differences.
    """
    target = image_features.mean(axis=0).astype(np.float64)
    z = np.zeros(len(vectors) * len(axes))
    found = []
    for step in range(1, max(steps) + 1):
        asked = displaced(vectors, z + np.concatenate([np.zeros((1, len(z))), _DIFFERENCE * np.eye(len(z))]), axes)
        similarity = np.sum([tower.word_features(t, asked, stand_ins) @ target for t in templates], axis=0)
        slope = similarity[1:] - similarity[0]
        z = z + slope / max(float(np.linalg.norm(slope)), 1e-12)
        if step in steps:
            found.append(displaced(vectors, z[None], axes)[0].astype(np.float32))
    return found
