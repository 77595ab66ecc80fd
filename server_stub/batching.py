"""The one lane to the device: one thread that does everybody's work in small steps, in turns.

A step is one micro-batch of denoiser rows, filled from several requests where one alone does not fill it, one picture,
or one call. Between steps the lane looks again at whose turn it is, and drops work whose client has gone away.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Condition, Thread
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.wire import images_cost, loss_cost
from server_stub.engine import Engine, ImageJob, LossJob, Slice, SteppedEngine
from server_stub.fair_queue import FairQueue
from server_stub.lane_tasks import Call, Losses, Pictures, Share, Stepped, Task

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


class Lane:
    """The queue before an engine, and the thread that serves it; safe from any thread.

    `max_queue` bounds the tasks that wait. Futures can be cancelled until their first step begins, which takes them
    out of the queue; after that they run to their end. `clock` gives monotonic seconds.
    """

    def __init__(self, engine: Engine, *, max_queue: int = 64, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._max_queue = max_queue
        self._clock = clock
        self._queue: FairQueue[Task[Any]] = FairQueue()
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
        future: Future[ResultT] = self._queued(Call(account, 1, forwards, function=function))
        return future

    async def run(self, account: str, forwards: int, function: Callable[[], ResultT]) -> ResultT:
        """Queue a call and await its result; cancelling takes it out of the queue. Raises as `submit` does."""
        return await asyncio.wrap_future(self.submit(account, forwards, function))

    def score(self, account: str, job: LossJob) -> Future[NDArray[np.float32]]:
        """Queue a loss job; the result is what `Engine.losses` returns. Raises as `submit` does."""
        candidates = len(next(iter(job.embeddings.values())))
        forwards, _ = loss_cost(candidates, len(job.samples))
        if isinstance(self._engine, SteppedEngine) and forwards:
            return self._queued(Losses(account, forwards, forwards, job=job))
        return self.submit(account, forwards, lambda: self._engine.losses(job))

    def paint(self, account: str, job: ImageJob) -> Future[list[Image.Image]]:
        """Queue pictures; the result is what `Engine.images` returns. Raises as `submit` does."""
        forwards, _ = images_cost(len(job.items), job.num_inference_steps, job.guidance_scale)
        if isinstance(self._engine, SteppedEngine) and job.items:
            pictures = self._engine.pictures(job)
            return self._queued(Pictures(account, len(job.items), forwards, pictures=pictures))
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

    def _queued(self, task: Task[ResultT]) -> Future[ResultT]:
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

    def _next_step(self) -> list[Share] | Stepped[Any] | None:
        """Take the next step out of the queue: a micro-batch of rows, or a task that does its steps itself."""
        shares: list[Share] = []
        room = self._engine.micro_batch if isinstance(self._engine, SteppedEngine) else 0
        passed_over: set[str] = set()
        while (account := self._queue.next_account(passed_over)) is not None:
            task = self._queue.head(account)
            if task.begun == 0 and not task.future.set_running_or_notify_cancel():
                self._queue.pop(account)
            elif isinstance(task, Losses):
                share = self._take(task, min(room, task.units - task.begun))
                shares.append(share)
                room -= len(share)
                if room == 0:
                    break
            elif not shares:
                assert isinstance(task, Stepped)
                self._begin(task, 1)
                return task
            else:
                passed_over.add(account)
        return shares or None

    def _take(self, task: Losses, rows: int) -> Share:
        share = Share(task, task.begun, task.begun + rows)
        self._begin(task, rows)
        return share

    def _begin(self, task: Task[Any], units: int) -> None:
        self._queue.charge(task.account, units * task.forwards_a_unit)
        task.begun += units
        if task.begun == task.units:
            self._queue.pop(task.account)

    def _perform(self, step: list[Share] | Stepped[Any]) -> None:
        started = self._clock()
        if isinstance(step, list):
            self._score(step)
            forwards = float(sum(len(share) for share in step))
        else:
            self._guarded(step, step.step)
            forwards = step.forwards_a_unit
        self._rate.add(forwards, self._clock() - started)

    def _score(self, shares: Sequence[Share]) -> None:
        """Score one micro-batch; where it fails, each task's rows alone, so that only the one at fault fails."""
        engine = self._engine
        assert isinstance(engine, SteppedEngine)
        ready = [share for share in shares if self._guarded(share.task, partial(share.task.prepare, engine))]
        try:
            engine.score([Slice(share.task.work, share.start, share.stop) for share in ready])
        except Exception as error:
            if len(ready) == 1:
                self._fail(ready[0].task, error)
            for share in ready if len(ready) > 1 else ():
                self._score([share])
            return
        for share in ready:
            self._guarded(share.task, partial(share.task.file, engine, len(share)))

    def _guarded(self, task: Task[Any], step: Callable[[], None]) -> bool:
        """Run a task's step and return whether the task is still sound; an error of its own fails it alone."""
        if task.future.done():
            return False
        try:
            step()
        except Exception as error:
            self._fail(task, error)
            return False
        return True

    def _fail(self, task: Task[Any], error: Exception) -> None:
        task.future.set_exception(error)
        with self._changed:
            if task.begun < task.units:
                assert self._queue.pop(task.account) is task


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
