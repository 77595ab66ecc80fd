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

__all__ = ["Distilled", "distil", "find_phrases", "least_squares", "longer_phrases"]

Array = NDArray[np.float64]
_POOL: Final = 32
_BEAM: Final = 3
_LONGEST: Final = 4
_STEPS: Final = 12
_DIFFERENCE: Final = 0.05
_DAMPINGS: Final = (0.03, 0.3, 3.0, 30.0)
_TRIES: Final = 3
_CLOSE: Final = 0.02  # of the phrase's effect; nearer makes no better word


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


def longer_phrases(clip: Clip, image_features: NDArray[np.float32], words: Sequence[str], template: str, phrase: str,
                   count: int) -> list[str]:  # fmt: skip
    """Return `phrase` with one word more, up to `count` times: of the likeliest words those least like one another.

    CLIP's similarity fools itself with several words for one side of a picture ("tilted spots pale"); what it leaves
    out ("blossom") is among its likeliest words all the same. Words are taken farthest first (Gonzalez 1985).
    """
    own = phrase.split()
    pool = own + [w for w in words[:_POOL] if w not in own]
    features = clip.text_features([template.format(w) for w in pool])
    target = image_features.mean(axis=0)
    longer = []
    for i in _farthest_first(features, len(own), count):
        orders = [f"{pool[i]} {phrase}", f"{phrase} {pool[i]}"]
        longer.append(orders[int((clip.text_features([template.format(p) for p in orders]) @ target).argmax())])
    return longer


def _farthest_first(features: NDArray[np.float32], taken: int, count: int) -> list[int]:
    """Up to `count` rows of `features`, each the least like the first `taken` and those before it."""
    centred = features - features.mean(axis=0)
    centred = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    chosen = list(range(taken))
    while len(chosen) < min(taken + count, len(features)):
        likeness = (centred @ centred[chosen].T).max(axis=1)
        likeness[chosen] = np.inf
        chosen.append(int(likeness.argmin()))
    return chosen[taken:]


@dataclass(frozen=True)
class Distilled:
    """A word's vectors (T, D) float32, and the share of the phrase's effect on the states that they miss, 0 to 1."""

    vectors: NDArray[np.float32]
    residual: float


def distil(
    tower: TextTower,
    phrase: str,
    templates: Sequence[str],
    words: NDArray[np.float32],
    axes: Array,
    stand_ins: Sequence[str],
    num_vectors: int,
    near: NDArray[np.float32] | None = None,
) -> Distilled:
    """Return the word that moves the text encoder's states as `phrase` does, in every template.

    `words` (n, D) are the phrase's own embeddings, from whose mean, or the best of them, the fit starts, or from the
    vectors `near` (T, D) where they are better; `axes` (d, D) are the directions it may take, each as long as a natural
    step.
    """
    target = np.concatenate([tower.text_states(t.format(phrase)).ravel() for t in templates])

    def states(vectors: Array) -> Array:
        parts = [tower.word_states(t, vectors, stand_ins).reshape(len(vectors), -1) for t in templates]
        return np.concatenate(parts, axis=1).astype(np.float64)

    starts = np.repeat(np.concatenate([words.mean(axis=0)[None], words])[:, None], num_vectors, axis=1)
    effect = float(np.square(states(starts) - target).sum(axis=1).max())
    starts = starts if near is None else np.concatenate([starts, near[None]])
    origin = starts[int(np.square(states(starts) - target).sum(axis=1).argmin())].astype(np.float64)

    def residuals(z: Array) -> Array:
        return np.asarray(states(displaced(origin, z, axes)) - target)

    z = least_squares(residuals, np.zeros(num_vectors * len(axes)), _CLOSE * effect)
    left = float(np.square(residuals(z[None])).sum() / max(effect, 1e-12))
    return Distilled(displaced(origin, z[None], axes)[0].astype(np.float32), min(left, 1.0))


def least_squares(residuals: Callable[[Array], Array], z: Array, close: float = 0.0) -> Array:
    """Return z (d,) with a small sum of squared residuals: Levenberg-Marquardt (Marquardt 1963) by forward differences.

    `residuals` maps points (n, d) to residuals (n, m); it is asked d points a step, in one call. A sum of `close` or
    less is small enough.
    """
    damping = 1e-2
    here = residuals(z[None])[0]
    for _ in range(_STEPS):
        jacobian = ((residuals(z + _DIFFERENCE * np.eye(len(z))) - here) / _DIFFERENCE).T
        for _ in range(_TRIES):
            points = z - _damped_steps(jacobian, here, damping)
            values = residuals(points)
            sums = np.square(values).sum(axis=1)
            best = int(sums.argmin())
            if sums[best] < np.square(here).sum() * (1 - 1e-3):
                break
            damping *= _DAMPINGS[-1] / _DAMPINGS[0]
        else:
            break
        z, here, damping = points[best], values[best], damping * _DAMPINGS[best]
        if sums[best] <= close:
            break
    return z


def _damped_steps(jacobian: Array, residual: Array, damping: float) -> Array:
    """The steps (n, d) to go back with each of the dampings about `damping`, in units of the mean curvature."""
    curvatures, directions = np.linalg.eigh(jacobian.T @ jacobian)
    slope = directions.T @ (jacobian.T @ residual)
    scale = damping * max(float(curvatures.mean()), 1e-12)
    return np.stack([directions @ (slope / (np.maximum(curvatures, 0) + scale * f)) for f in _DAMPINGS])
