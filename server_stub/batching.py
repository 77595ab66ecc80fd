"""The one lane to the device: one thread that does everybody's work in small steps, in turns.

A step is one micro-batch of denoiser rows, filled from several requests where one alone does not fill it, one picture,
or one call. Between steps the lane looks again at whose turn it is, and drops work whose client has gone away.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.wire import images_cost, loss_cost
from server_stub.engine import Engine, ImageJob, LossJob, Slice, SteppedEngine
from server_stub.fair_queue import FairQueue

__all__ = ["Lane", "LaneClosedError", "QueueFullError"]

ResultT = TypeVar("ResultT")

_RATE_MEMORY_SECONDS: Final = 10.0


class QueueFullError(Exception):
    """The queue is full; `retry_after`, in seconds, is about when there will be room."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class LaneClosedError(Exception):
    """The lane takes no more work."""


@dataclass(eq=False)
class _Task(Generic[ResultT]):
    """Work of `forwards` in all, done in `units`; `begun` of them are done or being done."""

    account: str
    units: int
    forwards: int
    future: Future[ResultT] = field(default_factory=Future)
    begun: int = 0

    @property
    def forwards_a_unit(self) -> float:
        return self.forwards / self.units


class _Stepped(_Task[ResultT], ABC):
    """A task that does its steps itself, one a unit."""

    @abstractmethod
    def step(self) -> None:
        """Do the next unit."""


@dataclass(eq=False)
class _Call(_Stepped[Any]):
    """A function, called in one step."""

    function: Callable[[], Any] = field(kw_only=True)

    def step(self) -> None:
        self.future.set_result(self.function())


@dataclass(eq=False)
class _Pictures(_Stepped[list[Image.Image]]):
    """Pictures, one a step."""

    pictures: Iterator[Image.Image] = field(kw_only=True)
    made: list[Image.Image] = field(default_factory=list)

    def step(self) -> None:
        self.made.append(next(self.pictures))
        if len(self.made) == self.units:
            self.future.set_result(self.made)


@dataclass(eq=False)
class _Losses(_Task[NDArray[np.float32]]):
    """A loss job, its rows scored in micro-batches that may hold other jobs' rows too."""

    job: LossJob = field(kw_only=True)
    work: Any = None
    scored: int = 0


@dataclass(frozen=True)
class _Share:
    """Rows `start` to `stop` of a task, in one micro-batch."""

    task: _Losses
    start: int
    stop: int


class Lane:
    """The queue before an engine, and the thread that serves it; safe from any thread.

    `max_queue` bounds the tasks that wait. Futures can be cancelled until their first step begins, which takes them
    out of the queue; after that they run to their end. `clock` gives monotonic seconds.
    """

    def __init__(self, engine: Engine, *, max_queue: int = 64, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._max_queue = max_queue
        self._clock = clock
        self._queue: FairQueue[_Task[Any]] = FairQueue()
        self._changed = Condition()
        self._closed = False
        self._rate = _Rate()
        self._thread = Thread(target=self._serve, name="lane", daemon=True)
        self._thread.start()

    def submit(self, account: str, forwards: int, function: Callable[[], ResultT]) -> Future[ResultT]:
        """Queue a call that takes about `forwards` denoiser passes' time.

        Raises:
            QueueFullError: too many tasks wait.
            LaneClosedError: the lane is closed.
        """
        future: Future[ResultT] = self._queued(_Call(account, 1, forwards, function=function))
        return future

    async def run(self, account: str, forwards: int, function: Callable[[], ResultT]) -> ResultT:
        """Queue a call and await its result; cancelling takes it out of the queue. Raises as `submit` does."""
        return await asyncio.wrap_future(self.submit(account, forwards, function))

    def score(self, account: str, job: LossJob) -> Future[NDArray[np.float32]]:
        """Queue a loss job; the result is what `Engine.losses` returns. Raises as `submit` does."""
        candidates = len(next(iter(job.embeddings.values())))
        forwards, _ = loss_cost(candidates, len(job.samples))
        if isinstance(self._engine, SteppedEngine) and forwards:
            return self._queued(_Losses(account, forwards, forwards, job=job))
        return self.submit(account, forwards, lambda: self._engine.losses(job))

    def paint(self, account: str, job: ImageJob) -> Future[list[Image.Image]]:
        """Queue pictures; the result is what `Engine.images` returns. Raises as `submit` does."""
        forwards, _ = images_cost(len(job.items), job.num_inference_steps, job.guidance_scale)
        if isinstance(self._engine, SteppedEngine) and job.items:
            pictures = self._engine.pictures(job)
            return self._queued(_Pictures(account, len(job.items), forwards, pictures=pictures))
        return self.submit(account, forwards, lambda: self._engine.images(job))

    @property
    def waiting(self) -> int:
        """The number of tasks not yet finished taking their steps."""
        with self._changed:
            return len(self._queue)

    @property
    def closed(self) -> bool:
        """Whether the lane takes no more work."""
        return self._closed

    def close(self, timeout: float | None = None) -> None:
        """Take no more work and wait until the queue is done, or `timeout` seconds; then cancel what has not begun."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        with self._changed:
            for task in self._queue:
                task.future.cancel()

    def _queued(self, task: _Task[ResultT]) -> Future[ResultT]:
        with self._changed:
            if self._closed:
                raise LaneClosedError("the lane is closed; ask another host, or this one after its restart")
            if len(self._queue) >= self._max_queue:
                waiting = sum(t.forwards - t.begun * t.forwards_a_unit for t in self._queue)
                raise QueueFullError(self._rate.seconds(waiting / len(self._queue)))
            self._queue.push(task.account, task)
            self._changed.notify_all()
        return task.future

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not (step := self._next_step()):
                    if self._closed:
                        return
                    self._changed.wait()
            self._perform(step)

    def _next_step(self) -> list[_Share] | _Stepped[Any] | None:
        """Take the next step out of the queue: a micro-batch of rows, or a task that does its steps itself."""
        shares: list[_Share] = []
        room = self._engine.micro_batch if isinstance(self._engine, SteppedEngine) else 0
        passed_over: set[str] = set()
        while (account := self._queue.next_account(passed_over)) is not None:
            task = self._queue.head(account)
            if task.begun == 0 and not task.future.set_running_or_notify_cancel():
                self._queue.pop(account)
            elif isinstance(task, _Losses):
                share = self._take(task, min(room, task.units - task.begun))
                shares.append(share)
                room -= share.stop - share.start
                if room == 0:
                    break
            elif not shares:
                assert isinstance(task, _Stepped)
                self._begin(task, 1)
                return task
            else:
                passed_over.add(account)
        return shares or None

    def _take(self, task: _Losses, rows: int) -> _Share:
        share = _Share(task, task.begun, task.begun + rows)
        self._begin(task, rows)
        return share

    def _begin(self, task: _Task[Any], units: int) -> None:
        self._queue.charge(task.account, units * task.forwards_a_unit)
        task.begun += units
        if task.begun == task.units:
            self._queue.pop(task.account)

    def _perform(self, step: list[_Share] | _Stepped[Any]) -> None:
        started = self._clock()
        if isinstance(step, list):
            self._score(step)
            forwards = float(sum(share.stop - share.start for share in step))
        else:
            self._guarded(step, step.step)
            forwards = step.forwards_a_unit
        self._rate.add(forwards, self._clock() - started)

    def _score(self, shares: Sequence[_Share]) -> None:
        """Score one micro-batch; where it fails, each task's rows alone, so that only the one at fault fails."""
        engine = self._engine
        assert isinstance(engine, SteppedEngine)
        ready = [share for share in shares if self._guarded(share.task, partial(_prepare, engine, share.task))]
        try:
            engine.score([Slice(share.task.work, share.start, share.stop) for share in ready])
        except Exception as error:
            if len(ready) == 1:
                self._fail(ready[0].task, error)
            for share in ready if len(ready) > 1 else ():
                self._score([share])
            return
        for share in ready:
            self._guarded(share.task, partial(_file, engine, share))

    def _guarded(self, task: _Task[Any], step: Callable[[], None]) -> bool:
        """Run a task's step and return whether the task is still sound; an error of its own fails it alone."""
        if task.future.done():
            return False
        try:
            step()
        except Exception as error:
            self._fail(task, error)
            return False
        return True

    def _fail(self, task: _Task[Any], error: Exception) -> None:
        task.future.set_exception(error)
        with self._changed:
            if task.begun < task.units:
                assert self._queue.pop(task.account) is task


def _prepare(engine: SteppedEngine, task: _Losses) -> None:
    if task.work is None:
        task.work = engine.prepare(task.job)


def _file(engine: SteppedEngine, share: _Share) -> None:
    task = share.task
    task.scored += share.stop - share.start
    if task.scored == task.units:
        task.future.set_result(engine.result(task.work))


class _Rate:
    """Denoiser passes a second, averaged over about the last ten seconds of work."""

    def __init__(self) -> None:
        self._forwards = 0.0
        self._seconds = 0.0

    def add(self, forwards: float, seconds: float) -> None:
        """Note `forwards` done in `seconds`."""
        kept = math.exp(-seconds / _RATE_MEMORY_SECONDS)
        self._forwards = kept * self._forwards + forwards
        self._seconds = kept * self._seconds + seconds

    def seconds(self, forwards: float) -> float:
        """Return about how long `forwards` passes take, at least one second, which is also the first guess."""
        return max(1.0, forwards * self._seconds / self._forwards) if self._forwards else 1.0
