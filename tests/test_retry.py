"""How long to wait before asking again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.retry import RetryPolicy, backoff, requested_wait

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
POLICY = RetryPolicy()


@given(st.integers(1, 10_000), st.integers(0, 2**32))
def test_backoff_is_full_jitter(attempt: int, seed: int) -> None:
    """A wait lies between nothing and min(cap, base * 2**(attempt - 1))."""
    wait = backoff(attempt, None, POLICY, np.random.default_rng(seed))
    assert 0 <= wait <= min(POLICY.cap, POLICY.base * 2.0 ** min(attempt - 1, 60))


@given(st.integers(1, 100), st.floats(0, 1e9), st.integers(0, 2**32))
def test_backoff_waits_as_long_as_asked_up_to_the_cap(attempt: int, requested: float, seed: int) -> None:
    """A host's wish is a lower bound, but no host can ask for more than the cap."""
    wait = backoff(attempt, requested, POLICY, np.random.default_rng(seed))
    assert wait >= min(requested, POLICY.retry_after_cap)
    assert wait <= max(POLICY.cap, POLICY.retry_after_cap + POLICY.base)


def test_backoff_is_drawn_from_the_generator_given() -> None:
    """The same generator state gives the same wait."""
    draws = [backoff(5, 2.0, POLICY, np.random.default_rng(7)) for _ in range(2)]
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=90), usegmt=True)}, 90.0),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=90), usegmt=True)}, 0.0),
        ({"ratelimit-reset": "12"}, 12.0),
        ({"ratelimit-reset": "12", "ratelimit-remaining": "0"}, 12.0),
        ({"ratelimit-reset": "12", "ratelimit-remaining": "3"}, None),
        ({"ratelimit": '"default";r=0;t=33'}, 33.0),
        ({"ratelimit": "limit=10, remaining=0, reset=50"}, 50.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "x", "retry-after": "4"}, 4.0),
        ({}, None),
    ],
)
def test_waits_are_read_from_every_header_that_asks_for_one(headers: dict[str, str], seconds: float | None) -> None:
    """Milliseconds, seconds, an HTTP date or a rate limit's reset are read; nonsense asks for nothing."""
    assert requested_wait(headers, NOW) == pytest.approx(seconds)


@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "ratelimit-reset", "ratelimit"]), st.text()))
def test_any_headers_give_a_wait_or_none(headers: dict[str, str]) -> None:
    """Whatever a host writes there, the answer is no wait or a finite one that is not negative."""
    seconds = requested_wait(headers, NOW)
    assert seconds is None or 0 <= seconds < float("inf")
