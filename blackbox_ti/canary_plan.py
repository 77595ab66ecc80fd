"""How often the canary asks, within a hundredth of the budget: pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["NO_CANARY", "RIVALS", "SAMPLES", "CanaryPlan", "plan_canary"]

SAMPLES: Final = 4
RIVALS: Final = 6
_SHARE: Final = 100
_FEWEST_ASKS: Final = 4


@dataclass(frozen=True)
class CanaryPlan:
    """A question of `candidates` x `samples` forwards, asked twice at the start and again `every` generations.

    `every` 0 means that it is not asked.
    """

    every: int
    candidates: int
    samples: int

    def asks(self, generations: int) -> int:
        """Return how often it is asked in a search of so many generations."""
        return 2 + generations // self.every if self.every else 0

    def cost(self, generations: int) -> int:
        """Return what asking costs in such a search, in forwards."""
        return self.asks(generations) * self.candidates * self.samples

    def generations(self, room: int, generation: int) -> int:
        """Return how many generations of `generation` forwards fit into `room` forwards beside the canary."""
        count = max(0, room // generation)
        while count and count * generation + self.cost(count) > room:
            count -= 1
        return count


NO_CANARY: Final = CanaryPlan(0, 1, SAMPLES)


def plan_canary(
    every: int | None, *, budget: int, room: int, generation: int, candidates: int, samples: int = SAMPLES
) -> CanaryPlan:
    """Return the canary of a search that has `room` of its `budget` for generations of `generation` forwards.

    With `every` None it takes at most a hundredth of the budget, and is left out where that pays for less than four
    asks; 0 leaves it out.
    """
    if every is not None:
        return CanaryPlan(every, candidates, samples)
    asks = budget // _SHARE // (candidates * samples)
    if asks < _FEWEST_ASKS:
        return CanaryPlan(0, candidates, samples)
    return CanaryPlan(max(1, -(-max(0, room // generation) // (asks - 2))), candidates, samples)
