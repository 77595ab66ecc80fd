"""Ask and tell over CMA-ES (pycma), without I/O and with its own random generator.

pycma's traps are designed out here: it draws from numpy's global generator unless told otherwise, takes seed 0 for
"by the clock", and accepts NaN, a short generation, or values for points it never asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.errors import SearchError
from blackbox_ti.pycma import cma

__all__ = ["CmaSearch", "SearchSettings"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SearchSettings:
    """CMA-ES's own settings; `covariance` is `full` or `diagonal` (sep-CMA-ES, Ros and Hansen 2008)."""

    dimension: int
    popsize: int
    sigma: float = 1.0
    covariance: Literal["full", "diagonal"] = "full"
    mirrored: bool = False


class CmaSearch:
    """CMA-ES in d dimensions from the origin; deterministic given its generator and the fitness told.

    The search is unchanged by strictly monotone transforms of fitness.
    """

    def __init__(self, settings: SearchSettings, rng: np.random.Generator) -> None:
        self._settings = settings
        options: dict[str, Any] = {
            "popsize": settings.popsize,
            "CMA_diagonal": settings.covariance == "diagonal",
            "randn": lambda *shape: rng.standard_normal(shape),
            "seed": np.nan,  # pycma: leave the global generator alone
            "verbose": -9,
            "verb_log": 0,
        }
        self._strategy: Any = cma.CMAEvolutionStrategy(np.zeros(settings.dimension), settings.sigma, options)
        self._asked: Array | None = None
        self._means: list[Array] = []

    @property
    def mean(self) -> Array:
        """The distribution's mean (d,)."""
        return np.array(self._strategy.mean, dtype=np.float64)

    def averaged(self, share: float) -> Array:
        """Return the average (d,) of the means after the last `share` of the generations told, or of the last alone.

        Noise that moves the mean from one generation to the next averages out (Polyak and Juditsky, SIAM J. Control
        Optim. 30, 1992).
        """
        if not self._means:
            return self.mean
        return np.asarray(np.mean(self._means[-max(1, round(share * len(self._means))) :], axis=0))

    @property
    def sigma(self) -> float:
        """The overall step size."""
        return float(self._strategy.sigma)

    def ask(self) -> Array:
        """Return the next generation (popsize, d), read-only.

        Raises:
            SearchError: the generation before was not told.
        """
        if self._asked is not None:
            raise SearchError("ask was called twice; tell the fitness of the first generation before asking another")
        points = self._mirrored() if self._settings.mirrored else np.array(self._strategy.ask(self._settings.popsize))
        points.flags.writeable = False
        self._asked = points
        return points

    def _mirrored(self) -> Array:
        """Pairs mean + s, mean - s (Brockhoff et al. 2010); an odd popsize leaves the last one alone."""
        half = np.array(self._strategy.ask((self._settings.popsize + 1) // 2))
        mirror = 2 * self.mean - half
        return np.stack([half, mirror], axis=1).reshape(-1, half.shape[1])[: self._settings.popsize]

    def tell(self, fitness: Sequence[float] | Array) -> None:
        """Move the distribution by the fitness (popsize,) of the generation asked, smaller is better.

        Raises:
            SearchError: nothing was asked, or fitness is not one finite number a candidate.
        """
        if self._asked is None:
            raise SearchError("tell was called without ask; ask for a generation first")
        values = np.array(fitness, dtype=np.float64)
        if values.shape != (len(self._asked),):
            raise SearchError(
                f"a generation of {len(self._asked)} candidates takes as many numbers, not {values.shape}"
            )
        if not np.isfinite(values).all():
            raise SearchError("fitness holds NaN or infinity; give failed candidates a large finite number instead")
        asked, self._asked = self._asked, None
        self._strategy.tell([np.array(z) for z in asked], list(values))
        self._means.append(self.mean)
