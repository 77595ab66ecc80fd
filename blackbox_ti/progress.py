"""How far a run has come, as it tells those who watch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Phase", "Progress"]

Phase = Literal["race", "search"]


@dataclass(frozen=True)
class Progress:
    """Where a run stands; losses are None before the first and where the host tells none.

    `generation` of `generations` are done, or in the phase `race` so many rounds of those that choose the start. Where
    pictures are judged, `score` and `heldout_score` stand for losses, and larger is better. `host_changed` counts how
    often the canary found that the host answers otherwise.
    """

    phase: Phase
    generation: int
    generations: int
    forwards: int
    max_forwards: int
    loss: float | None
    heldout_loss: float | None
    seconds: float
    host_changed: int = 0
    score: float | None = None
    heldout_score: float | None = None
