"""Phrases that CLIP sees in pictures, each distilled into the vectors of one word; at no cost to the endpoint.

One word names one side of a concept ("heart"); a phrase names several ("orange striped heart"). The phrase is found by
beam search on CLIP's similarity, and a word is fitted to do to the text encoder what the phrase does: least squares on
the states of the encoder that the user has at hand, by its gradients; the host's model is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.text_tower import TextTower

if TYPE_CHECKING:
    from blackbox_ti.clip import Clip

__all__ = ["Distilled", "distil", "find_phrases", "longer_phrases"]

Array = NDArray[np.float64]
_POOL: Final = 32
_BEAM: Final = 3
_LONGEST: Final = 4


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
    targets = {t: tower.text_states(t.format(phrase)) for t in templates}

    def misses(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = [np.square(tower.word_states(t, vectors, stand_ins) - targets[t]).sum(axis=(1, 2)) for t in templates]
        return np.asarray(np.sum(parts, axis=0), dtype=np.float32)

    starts = np.repeat(np.concatenate([words.mean(axis=0)[None], words])[:, None], num_vectors, axis=1)
    starts = starts if near is None else np.concatenate([starts, near[None]])
    missed = misses(starts)
    effect = float(missed[: len(words) + 1].max())
    found = tower.fitted(targets, starts[int(missed.argmin())], axes, stand_ins)
    return Distilled(found, min(float(misses(found[None])[0]) / max(effect, 1e-12), 1.0))
