"""Rates and concurrency per key, within one process: a token bucket and a count of requests under way."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

__all__ = ["Allowance", "Limiter", "TooManyError"]

_MOST_BUCKETS: Final = 10_000


@dataclass(frozen=True)
class Allowance:
    """What a bucket says: its size, the tokens left, and the seconds until it is full, or may be tried again."""

    limit: int
    remaining: int
    reset: float

    def headers(self) -> dict[str, str]:
        """Return the RateLimit headers."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(max(0, -int(-self.reset // 1))),
        }


class TooManyError(Exception):
    """The rate or the concurrency of a key is used up; `retry_after` is in seconds."""

    def __init__(self, message: str, allowance: Allowance, retry_after: float) -> None:
        super().__init__(message)
        self.allowance = allowance
        self.retry_after = retry_after


class Limiter:
    """Token buckets of `burst` tokens refilled at `rate` a second, and `concurrency` slots, for each name.

    `clock` gives monotonic seconds. The least recently used of more than 10,000 buckets are forgotten.
    """

    def __init__(
        self, *, rate: float, burst: int, concurrency: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._concurrency = concurrency
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._active: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, name: str) -> Allowance:
        """Take a token.

        Raises:
            TooManyError: there is none; `retry_after` says when there will be.
        """
        now = self._clock()
        with self._lock:
            tokens, last = self._buckets.get(name, (float(self._burst), now))
            tokens = min(float(self._burst), tokens + (now - last) * self._rate)
            allowed = tokens >= 1
            tokens -= allowed
            self._buckets[name] = (tokens, now)
            self._buckets.move_to_end(name)
            while len(self._buckets) > _MOST_BUCKETS:
                self._buckets.popitem(last=False)
        allowance = Allowance(self._burst, int(tokens), (self._burst - tokens) / self._rate)
        if not allowed:
            raise TooManyError("too many requests in a short time", allowance, (1 - tokens) / self._rate)
        return allowance

    @contextmanager
    def slot(self, name: str, *, retry_after: float) -> Iterator[None]:
        """Hold one of the slots of `name`.

        Raises:
            TooManyError: all are taken; try again after `retry_after` seconds.
        """
        with self._lock:
            if self._active[name] >= self._concurrency:
                allowance = Allowance(self._concurrency, 0, retry_after)
                raise TooManyError("too many requests at the same time", allowance, retry_after)
            self._active[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._active[name] -= 1
                if not self._active[name]:
                    del self._active[name]
