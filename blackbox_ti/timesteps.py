"""Where in the noise schedule candidates differ: learned from the search's own losses, and asked more often there.

Losses of two words differ a hundred times more at some timesteps than at others, and with uniform sampling the mean is
at the mercy of those few samples that fall there. Timesteps are therefore drawn with a density p that follows how far
candidates' losses spread (Neyman's allocation, J. R. Stat. Soc. 97, 1934), a part of it staying uniform, and a sample
counts 1 / p: what is estimated stays the mean loss over all timesteps, with less noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.wire import Sample

__all__ = ["Focus", "FocusedBank"]

Array = NDArray[np.float64]

_BANDS: Final = 5
_UNIFORM_SHARE: Final = 0.3
_DOUBT: Final = 12.0


class FocusedBank(list[Sample]):
    """Samples and their weights (n,), whose expected value is 1."""

    def __init__(self, samples: Sequence[Sample], weights: Array) -> None:
        super().__init__(samples)
        self.weights = weights


class Focus:
    """What is known so far of how far candidates' losses spread in each band of timesteps, 0 to 1.

    Until something is learned, timesteps are uniform.
    """

    def __init__(self) -> None:
        self._squares, self._counts = np.zeros(_BANDS), np.zeros(_BANDS)

    @property
    def density(self) -> Array:
        """The density p in each band, with mean 1.

        A band's spread is taken to be that of all bands until there are enough losses to tell.
        """
        if not self._squares.sum():
            return np.ones(_BANDS)
        prior = self._squares.sum() / self._counts.sum()
        spread = np.sqrt((self._squares + _DOUBT * prior) / (self._counts + _DOUBT))
        return np.asarray(_UNIFORM_SHARE + (1 - _UNIFORM_SHARE) * spread / spread.mean())

    def bank(self, samples: Sequence[Sample], t_min: float = 0.0, t_max: float = 1.0) -> FocusedBank:
        """Return `samples`, drawn uniformly from `t_min` to `t_max`, with timesteps moved to where they tell most."""
        density, edges = self.density, np.linspace(0, 1, _BANDS + 1)
        reached = np.concatenate([[0.0], np.cumsum(density) / _BANDS])
        first, last = np.interp([t_min, t_max], edges, reached)
        uniform = np.array([(s.t - t_min) / (t_max - t_min) for s in samples])
        place = np.interp(first + uniform * (last - first), reached, edges)
        moved = [s.model_copy(update={"t": t}) for s, t in zip(samples, place.tolist(), strict=True)]
        weights = (last - first) / (t_max - t_min) / density[[_band(s) for s in moved]]
        return FocusedBank(moved, weights)

    def learn(self, bank: Sequence[Sample], losses: Sequence[Array | None]) -> None:
        """Take in the losses (n,) of candidates on a bank; None for those that have none."""
        rows = [row for row in losses if row is not None]
        if len(rows) < 2:
            return
        apart = np.square(np.stack(rows) - np.mean(rows, axis=0)).sum(axis=0)
        bands = [_band(sample) for sample in bank]
        np.add.at(self._squares, bands, apart)
        np.add.at(self._counts, bands, len(rows) - 1)


def _band(sample: Sample) -> int:
    return min(_BANDS - 1, int(sample.t * _BANDS))
