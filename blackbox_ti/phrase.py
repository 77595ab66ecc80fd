"""Phrases that CLIP sees in pictures, each distilled into the vectors of one word; at no cost to the endpoint.

One word names one side of a concept ("heart"); a phrase names several ("orange striped heart"). The phrase is found by
beam search on CLIP's similarity, and a word is fitted to do to the text encoder what the phrase does: least squares on
the states of the encoder that the user has at hand, by its gradients; the host's model is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.text_tower import TextTower

if TYPE_CHECKING:
    from blackbox_ti.clip import Clip

__all__ = ["distil", "find_phrases", "more_words", "shorter_phrases"]

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


def more_words(clip: Clip, image_features: NDArray[np.float32], words: Sequence[str], template: str, phrase: str,
               count: int) -> list[str]:  # fmt: skip
    """Return up to `count` ways to say one word more than `phrase`, which {} stands for: "blossom {}", or "{} blossom".

    CLIP's similarity fools itself with several words for one side of a picture ("tilted spots pale"); what it leaves
    out ("blossom") is among its likeliest words all the same. Of these, words are taken farthest first (Gonzalez 1985),
    and each where CLIP finds it likelier.
    """
    own = phrase.split()
    pool = own + [w for w in words[:_POOL] if w not in own]
    if count < 1 or len(pool) == len(own):
        return []
    features = clip.text_features([template.format(w) for w in pool])
    chosen = [pool[i] for i in _farthest_first(features, len(own), count)]
    ways = [way for w in chosen for way in (f"{w} {{}}", f"{{}} {w}")]
    texts = [template.format(way.format(phrase).strip()) for way in ways]
    similarity = (clip.text_features(texts) @ image_features.mean(axis=0)).reshape(-1, 2)
    return [ways[2 * i + int(after)] for i, after in enumerate(similarity.argmax(axis=1))]


def shorter_phrases(phrase: str) -> list[str]:
    """Return `phrase` without each of its words in turn; nothing where it has but one."""
    words = phrase.split()
    return [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))] if len(words) > 1 else []


def _farthest_first(features: NDArray[np.float32], taken: int, count: int) -> list[int]:
    """Up to `count` rows of `features`, each the least like the `taken` first and those before it; of none, row 0."""
    centred = features - features.mean(axis=0)
    centred = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    chosen = list(range(taken or 1))
    while len(chosen) < min(taken + count, len(features)):
        likeness = (centred @ centred[chosen].T).max(axis=1)
        likeness[chosen] = np.inf
        chosen.append(int(likeness.argmin()))
    return chosen[taken:]


def distil(
    tower: TextTower,
    targets: Mapping[str, NDArray[np.float32]],
    starts: NDArray[np.float32],
    axes: Array,
    stand_ins: Sequence[str],
) -> NDArray[np.float32]:
    """Return the word (T, D) that moves the text encoder's states to `targets`, template -> (K, D).

    The fit starts from the best of `starts` (n, T, D); `axes` (d, D) are the directions it may take, each as long as a
    natural step.
    """
    missed = sum(
        np.square(tower.word_states(t, starts, stand_ins) - states).sum(axis=(1, 2)) for t, states in targets.items()
    )
    return tower.fitted(targets, starts[int(np.argmin(missed))], axes, stand_ins)
