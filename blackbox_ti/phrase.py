"""Phrases that CLIP sees in pictures, each distilled into the vectors of one word; at no cost to the endpoint.

One word names one side of a concept ("heart"); a phrase names several ("orange striped heart"). The phrase is found by
beam search on CLIP's similarity, and a word is fitted to do to the text encoder what the phrase does: least squares on
the encoder's states by Levenberg-Marquardt, its Jacobian by finite differences, so by forward passes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.subspace import displaced
from blackbox_ti.text_tower import TextTower

if TYPE_CHECKING:
    from blackbox_ti.clip import Clip

__all__ = ["Distilled", "distil", "find_phrases", "least_squares"]

Array = NDArray[np.float64]
_POOL: Final = 32
_BEAM: Final = 3
_LONGEST: Final = 4
_STEPS: Final = 5
_DIFFERENCE: Final = 0.05


def find_phrases(clip: Clip, image_features: NDArray[np.float32], words: Sequence[str], template: str) -> list[str]:
    """Return the likeliest phrase of each length from 2 to 4 words, the shortest first.

    `words` are the candidates, the likeliest first; `image_features` (n, C) are unit vectors.
    """
    pool = list(words[:_POOL])
    target = image_features.mean(axis=0)
    beam = pool[:_BEAM]
    found = []
    for _ in range(_LONGEST - 1):
        longer = sorted({p for old in beam for w in pool if w not in old.split() for p in (f"{w} {old}", f"{old} {w}")})
        if not longer:
            break
        similarity = clip.text_features([template.format(p) for p in longer]) @ target
        beam = [longer[i] for i in np.argsort(-similarity, kind="stable")[:_BEAM]]
        found.append(beam[0])
    return found


@dataclass(frozen=True)
class Distilled:
    """A word's vectors (T, D) float32, and the share of the phrase's effect on the states that they miss, 0 to 1."""

    vectors: NDArray[np.float32]
    residual: float


def distil(tower: TextTower, phrase: str, templates: Sequence[str], words: NDArray[np.float32], axes: Array,
           stand_ins: Sequence[str], num_vectors: int) -> Distilled:  # fmt: skip
    """Return the word that moves the text encoder's states as `phrase` does, in every template.

    `words` (n, D) are the phrase's own embeddings, from whose mean, or the best of them, the fit starts; `axes`
    (d, D) are the directions it may take, each as long as a natural step.
    """
    target = np.concatenate([tower.text_states(t.format(phrase)).ravel() for t in templates])

    def states(vectors: Array) -> Array:
        parts = [tower.word_states(t, vectors, stand_ins).reshape(len(vectors), -1) for t in templates]
        return np.concatenate(parts, axis=1).astype(np.float64)

    starts = np.repeat(np.concatenate([words.mean(axis=0)[None], words])[:, None], num_vectors, axis=1)
    misses = np.square(states(starts) - target).sum(axis=1)
    origin = starts[int(misses.argmin())].astype(np.float64)

    def residuals(z: Array) -> Array:
        return np.asarray(states(displaced(origin, z, axes)) - target)

    z = least_squares(residuals, np.zeros(num_vectors * len(axes)))
    left = float(np.square(residuals(z[None])).sum() / max(float(misses.max()), 1e-12))
    return Distilled(displaced(origin, z[None], axes)[0].astype(np.float32), min(left, 1.0))


def least_squares(residuals: Callable[[Array], Array], z: Array) -> Array:
    """Return z (d,) with a small sum of squared residuals: Levenberg-Marquardt (Marquardt 1963) by forward differences.

    `residuals` maps points (n, d) to residuals (n, m); it is asked d points a step, in one call.
    """
    damping = 1e-2
    here = residuals(z[None])[0]
    for _ in range(_STEPS):
        jacobian = ((residuals(z + _DIFFERENCE * np.eye(len(z))) - here) / _DIFFERENCE).T
        normal = jacobian.T @ jacobian
        scale = damping * np.trace(normal) / len(z)
        tries = [scale * factor for factor in (0.1, 1.0, 10.0, 100.0)]
        points = z - np.stack([np.linalg.solve(normal + s * np.eye(len(z)), jacobian.T @ here) for s in tries])
        values = residuals(points)
        best = int(np.square(values).sum(axis=1).argmin())
        if np.square(values[best]).sum() >= np.square(here).sum() * (1 - 1e-3):
            break
        z, here, damping = points[best], values[best], damping * (0.1, 1.0, 10.0, 100.0)[best]
    return z
