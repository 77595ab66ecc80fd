"""What waits in the lane's queue: work, the units it is done in, and the future of its result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from server_stub.engine import LossJob, SteppedEngine

__all__ = ["Call", "Losses", "Pictures", "Share", "Stepped", "Task"]

ResultT = TypeVar("ResultT")


@dataclass(eq=False)
class Task(Generic[ResultT]):
    """Work of `forwards` in all, done in `units`; `begun` of them are done or being done."""

    account: str
    units: int
    forwards: int
    future: Future[ResultT] = field(default_factory=Future)
    begun: int = 0

    @property
    def forwards_a_unit(self) -> float:
        """Denoiser passes of one unit."""
        return self.forwards / self.units


class Stepped(Task[ResultT], ABC):
    """A task that does its steps itself, one a unit."""

    @abstractmethod
    def step(self) -> None:
        """Do the next unit."""


@dataclass(eq=False)
class Call(Stepped[Any]):
    """A function, called in one step."""

    function: Callable[[], Any] = field(kw_only=True)

    def step(self) -> None:
        """Call it."""
        self.future.set_result(self.function())


@dataclass(eq=False)
class Pictures(Stepped[list[Image.Image]]):
    """Pictures, one a step."""

    pictures: Iterator[Image.Image] = field(kw_only=True)
    made: list[Image.Image] = field(default_factory=list)

    def step(self) -> None:
        """Make the next picture."""
        self.made.append(next(self.pictures))
        if len(self.made) == self.units:
            self.future.set_result(self.made)


@dataclass(eq=False)
class Losses(Task[NDArray[np.float32]]):
    """A loss job, its rows scored in micro-batches that may hold other jobs' rows too."""

    job: LossJob = field(kw_only=True)
    work: Any = None
    scored: int = 0

    def prepare(self, engine: SteppedEngine) -> None:
        """Make the job ready to be scored, unless it is."""
        if self.work is None:
            self.work = engine.prepare(self.job)

    def file(self, engine: SteppedEngine, rows: int) -> None:
        """Note that `rows` more are scored; after the last the result is there."""
        self.scored += rows
        if self.scored == self.units:
            self.future.set_result(engine.result(self.work))


@dataclass(frozen=True)
class Share:
    """Rows `start` to `stop` of a task, in one micro-batch."""

    task: Losses
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start
