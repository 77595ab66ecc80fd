"""One piece of work after the other on one thread: what the host uses where no lane is given."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["SingleLane"]

ResultT = TypeVar("ResultT")


class SingleLane:
    """Work for an engine, in order."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)

    def submit(self, work: Callable[[], ResultT]) -> Future[ResultT]:
        """Queue `work`."""
        return self._pool.submit(work)

    def close(self) -> None:
        """Finish what is queued."""
        self._pool.shutdown()
