"""How far two answers to the same question are apart, and how far they may be."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.evaluation import Scores
from blackbox_ti.wire import ModelCard

__all__ = ["drift", "precision", "relative_change"]

_EXACT: Final = 1e-5


def precision(card: ModelCard) -> float:
    """Return the relative error a loss may have by the reply mode alone: float32 sums in any order, or the rounding."""
    if card.reply_mode == "rounded" and card.reply_digits:
        return float(max(10.0 ** (1 - card.reply_digits), _EXACT))
    return _EXACT


def relative_change(before: NDArray[np.float64], now: NDArray[np.float64]) -> float:
    """Return the largest change of a loss, relative to what it was; 0 where all are equal. Both are (n,) and finite."""
    scale = np.maximum(np.abs(before), np.finfo(np.float32).tiny)
    return float(np.max(np.abs(now - before) / scale))


def drift(before: Scores, now: Scores) -> float:
    """Return the largest relative change of a loss; infinite where other candidates fail, or the order changed."""
    if before.losses is None or now.losses is None:
        return 0.0 if np.array_equal(before.fitness, now.fitness) else float("inf")
    largest = 0.0
    for old, new in zip(before.losses, now.losses, strict=True):
        if (old is None) != (new is None):
            return float("inf")
        if old is not None and new is not None:
            largest = max(largest, relative_change(old, new))
    return largest
