"""When to ask again and how long to wait: pure functions of a failure, its headers and a generator."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import numpy as np

__all__ = ["RetryPolicy", "backoff", "requested_wait"]

_RATELIMIT_RESET: Final = re.compile(r"(?:^|[;,\s])(?:t|reset)\s*=\s*(\d{1,9})")
_MAX_EXPONENT: Final = 62


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How patient one call is; times are in seconds.

    `deadline` is for the call with all its attempts and waits. `max_malformed` bounds the attempts that were answered
    with something that is not the protocol, `max_unreachable` (None for no bound) those that reached no host.
    """

    base: float = 0.5
    cap: float = 30.0
    retry_after_cap: float = 120.0
    deadline: float = 900.0
    max_malformed: int = 6
    max_unreachable: int | None = None


def backoff(attempt: int, requested: float | None, policy: RetryPolicy, rng: np.random.Generator) -> float:
    """Return the seconds to wait after failed attempt number `attempt` (from 1): full jitter.

        wait = U(0, min(cap, base * 2**(attempt - 1)))

    and where the host asked for `requested` seconds, min(requested, retry_after_cap) + U(0, base) if that is longer.
    Source: M. Brooker, Exponential Backoff and Jitter (AWS Architecture Blog, 2015); RFC 9110, section 10.2.3.
    """
    ceiling = min(policy.cap, policy.base * 2.0 ** min(attempt - 1, _MAX_EXPONENT))
    wait = float(rng.uniform(0.0, ceiling))
    if requested is None:
        return wait
    return max(wait, min(requested, policy.retry_after_cap) + float(rng.uniform(0.0, policy.base)))


def requested_wait(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds a reply asks to wait, or None where it asks for nothing that can be read.

    Reads, in this order: `Retry-After-Ms` (milliseconds), `Retry-After` (seconds or an HTTP date, RFC 9110), and,
    where the limit is used up, `RateLimit-Reset` or the `t=` of `RateLimit` (seconds, IETF drafts).
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    retry_after = headers.get("retry-after")
    seconds = _number(retry_after)
    if seconds is None and retry_after is not None:
        seconds = _seconds_until(retry_after, now)
    return seconds if seconds is not None else _ratelimit_reset(headers)


def _number(text: str | None) -> float | None:
    if text is None or len(text) > 32:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _seconds_until(date: str, now: datetime) -> float | None:
    try:
        then = parsedate_to_datetime(date[:64])
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - now).total_seconds())


def _ratelimit_reset(headers: Mapping[str, str]) -> float | None:
    if headers.get("ratelimit-remaining", "0").strip() not in {"", "0"}:
        return None
    reset = _number(headers.get("ratelimit-reset"))
    if reset is not None:
        return reset
    found = _RATELIMIT_RESET.search(headers.get("ratelimit", "")[:256])
    return float(found.group(1)) if found else None
