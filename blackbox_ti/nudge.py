"""A word moved towards the pictures in CLIP's space, on the user's own machine; at no cost to the endpoint.

Words name what a picture shows; its colours and its manner they name in part, and there CLIP's similarity points the
way. It points well for a few steps only, and for some concepts not at all: what it proposes has to win a race.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.text_tower import TextTower

__all__ = ["nudged"]

Array = NDArray[np.float64]


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
    `image_features` (n, C) are unit vectors.
    """
    target = image_features.mean(axis=0)
    word, z = vectors, np.zeros((len(vectors), len(axes)))
    found = []
    for step in range(1, max(steps) + 1):
        slope = tower.likeness_slope(templates, word, target, stand_ins) @ axes.T
        z = z + slope / max(float(np.linalg.norm(slope)), 1e-12)
        word = (vectors + z @ axes).astype(np.float32)
        if step in steps:
            found.append(word)
    return found
