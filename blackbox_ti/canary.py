"""A canary: one question asked at the start and again now and then, to notice a model that was swapped in silence.

The first answer is asked for twice, so that a host whose arithmetic wobbles is judged by its own wobble. A later answer
has changed when a loss moved by more than

    max(precision of the reply mode, 4 * wobble)

of its size; where the host only ranks, when the order of a few fixed candidates did. That order may survive a small
change of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from blackbox_ti.canary_plan import RIVALS
from blackbox_ti.errors import ResumeError
from blackbox_ti.evaluation import Evaluator, Scores
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import ModelCard

__all__ = ["Canary", "drift", "precision", "rivals"]

_EXACT: Final = 1e-5
_WOBBLES: Final = 4.0


def precision(card: ModelCard) -> float:
    """Return the relative error a loss may have by the reply mode alone: float32 sums in any order, or the rounding."""
    if card.reply_mode == "rounded" and card.reply_digits:
        return float(max(10.0 ** (1 - card.reply_digits), _EXACT))
    return _EXACT


def rivals(embedding: Embedding, card: ModelCard, rng: np.random.Generator) -> Embedding:
    """Return candidates (RIVALS, T, D) about `embedding` (T, D), as far from it as words are from zero."""
    found = {}
    for encoder in card.encoders:
        vectors = embedding[encoder.name]
        steps = rng.normal(size=(RIVALS, *vectors.shape))
        steps *= encoder.norm_mean / np.linalg.norm(steps, axis=-1, keepdims=True)
        found[encoder.name] = (vectors[None] + steps).astype(np.float32)
    return found


def drift(before: Scores, now: Scores) -> float:
    """Return the largest relative change of a loss; infinite where other candidates fail, or the order changed."""
    if before.losses is None or now.losses is None:
        return 0.0 if np.array_equal(before.fitness, now.fitness) else float("inf")
    largest = 0.0
    for old, new in zip(before.losses, now.losses, strict=True):
        if (old is None) != (new is None):
            return float("inf")
        if old is not None and new is not None:
            scale = np.maximum(np.abs(old), np.finfo(np.float32).tiny)
            largest = max(largest, float(np.max(np.abs(new - old) / scale)))
    return largest


class Canary:
    """Asks `bank` about `candidates`, encoder -> (n, T, D), of the host; `describe` returns its card afresh.

    `changes` counts how often the answer, or the fingerprint on the card, was another than the time before;
    `last_drift` is the latest answer's relative change.
    """

    def __init__(
        self,
        evaluator: Evaluator[Any],
        candidates: Embedding,
        bank: Sequence[Any],
        describe: Callable[[], ModelCard],
    ) -> None:
        self._evaluator, self._candidates, self._bank = evaluator, candidates, bank
        self._describe = describe
        self._fingerprint = evaluator.card.fingerprint
        self._reference: Scores | None = None
        self._tolerance = precision(evaluator.card)
        self.changes = 0
        self.last_drift = 0.0

    def open(self) -> None:
        """Ask twice: the answer to compare with, and how much it wobbles by itself."""
        first = self._ask("canary/0")
        wobble = drift(first, self._ask("canary/0/again"))
        if np.isfinite(wobble):
            self._tolerance = max(self._tolerance, _WOBBLES * wobble)
        self._reference = first

    def check(self, generation: int) -> bool:
        """Ask again; return whether the host changed since the answer before, which the new answer then replaces."""
        assert self._reference is not None
        swapped = self._other_fingerprint()
        now = self._ask(f"canary/{generation}")
        self.last_drift = drift(self._reference, now)
        changed = swapped or self.last_drift > self._tolerance
        if changed:
            self.changes += 1
            self._reference = now
        return changed

    def _ask(self, label: str) -> Scores:
        return self._evaluator.scores(self._candidates, self._bank, label)

    def _other_fingerprint(self) -> bool:
        """Return whether the card now names another model than before; a run's book refuses such a card."""
        try:
            told = self._describe().fingerprint
        except ResumeError:
            told = ""
        before, self._fingerprint = self._fingerprint, told
        return told != before
