"""How well losses tell words apart: a two-way table of words and samples, and the samples that it takes.

    loss[w, s] = mean + word[w] + sample[s] + residual[w, s]

All words of a generation share their samples, so what is common to a sample cancels, and only the residual is noise.
Source: the analysis of variance of a two-way layout without replication (Scheffe, The Analysis of Variance, 1959).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEWEST", "MOST", "Spread", "samples_needed", "spread_of"]

FEWEST: Final = 4
MOST: Final = 64
_TIMES_THE_NOISE: Final = 2.0


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a loss between words, between samples, and of what neither explains."""

    words: float
    samples: float
    residual: float


def spread_of(losses: NDArray[np.float64]) -> Spread:
    """Return the spreads in a table (W, S) with W, S >= 2; the variances between are clear of the residual's share."""
    words, samples = losses.shape
    rows, columns = losses.mean(axis=1), losses.mean(axis=0)
    rest = losses - rows[:, None] - columns[None, :] + losses.mean()
    residual = float((rest**2).sum() / ((words - 1) * (samples - 1)))
    between_words = max(0.0, float(rows.var(ddof=1)) - residual / samples)
    between_samples = max(0.0, float(columns.var(ddof=1)) - residual / words)
    return Spread(math.sqrt(between_words), math.sqrt(between_samples), math.sqrt(residual))


def samples_needed(spread: Spread) -> int:
    """Return how many samples put the spread of words at twice the noise of their means, FEWEST to MOST."""
    if spread.words == 0.0:
        return MOST
    wanted = (_TIMES_THE_NOISE * spread.residual / spread.words) ** 2
    return int(min(MOST, max(FEWEST, math.ceil(wanted))))
