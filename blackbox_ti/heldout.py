"""The judge: keeps the best embedding on a bank the search never sees, and says when nothing more is being learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from blackbox_ti.evaluation import Array, Evaluator
from blackbox_ti.subspace import Embedding

__all__ = ["Judge"]

Q = TypeVar("Q")


class Judge(Generic[Q]):
    """Holds the best embedding so far, encoder -> (T, D); comparisons are paired on one fixed bank.

    A rival has to win by more than one standard error of the paired difference: of many that are no better than the
    best, one would always look so by luck (the one-standard-error rule, Breiman et al., Classification and Regression
    Trees, 1984). Without a bank the last one considered is kept.
    """

    def __init__(self, evaluator: Evaluator[Q], bank: Sequence[Q], start: Embedding) -> None:
        self._evaluator, self._bank = evaluator, bank
        self.best = start
        self._best_row: Array | None = None
        self.failures = 0

    @property
    def best_loss(self) -> float | None:
        """The mean loss of the best, or None where it is not known."""
        return None if self._best_row is None else float(self._best_row.mean())

    def open(self) -> None:
        """Score the start; a host that only ranks has nothing to say of one candidate."""
        if self._bank and not self._evaluator.ranked:
            scores = self._evaluator.scores(_stacked([self.best]), self._bank, "heldout/0")
            self._best_row = scores.row(0)

    def consider(self, embedding: Embedding, generation: int) -> bool:
        """Judge a candidate; keep it and return True if it beats the best so far."""
        if not self._bank:
            self.best = embedding
            return True
        ranked = self._evaluator.ranked
        rivals = [self.best, embedding] if ranked else [embedding]
        scores = self._evaluator.scores(_stacked(rivals), self._bank, f"heldout/{generation}")
        row = scores.row(0)
        better = bool(scores.fitness[1] < scores.fitness[0]) if ranked else self._beats(row)
        if better:
            self.best, self._best_row, self.failures = embedding, row, 0
        else:
            self.failures += 1
        return better

    def _beats(self, row: Array | None) -> bool:
        if row is None or self._best_row is None:
            return row is not None
        gain = self._best_row - row
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
        return bool(gain.mean() > error)


def _stacked(embeddings: Sequence[Embedding]) -> Embedding:
    return {name: np.stack([e[name] for e in embeddings]) for name in embeddings[0]}
