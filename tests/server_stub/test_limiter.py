"""Tests of rates and slots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_stub.limiter import Limiter, TooManyError
from tests.server_stub.books import Clock


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 20),
    waits=st.lists(st.floats(0, 5), max_size=100),
)
def test_never_more_than_the_burst_and_the_rate_allow(rate: float, burst: int, waits: list[float]) -> None:
    """In any stretch of time from the start, no more is let through than burst + rate * time."""
    clock = Clock()
    limiter = Limiter(rate=rate, burst=burst, clock=clock)
    start, passed = clock.now, 0
    for wait in waits:
        clock.now += wait
        try:
            passed += limiter.take("ada").limit > 0
        except TooManyError:
            continue
    assert passed <= burst + rate * (clock.now - start) + 1e-6


@given(rate=st.floats(0.1, 100), burst=st.integers(1, 20))
def test_retry_after_is_enough(rate: float, burst: int) -> None:
    """Whoever waits as long as told is let through."""
    clock = Clock()
    clock.now = 0.0
    limiter = Limiter(rate=rate, burst=burst, clock=clock)
    for _ in range(burst):
        limiter.take("ada")
    with pytest.raises(TooManyError) as caught:
        limiter.take("ada")
    clock.now += caught.value.retry_after + 1e-6
    assert limiter.take("ada").remaining == 0


def test_one_name_does_not_use_up_anothers_rate() -> None:
    """Each name has a bucket of its own; the headers say what it holds."""
    limiter = Limiter(rate=1, burst=2, clock=Clock())
    limiter.take("ada")
    limiter.take("ada")
    with pytest.raises(TooManyError):
        limiter.take("ada")
    assert limiter.take("bob").headers() == {
        "RateLimit-Limit": "2",
        "RateLimit-Remaining": "1",
        "RateLimit-Reset": "1",
    }


def test_the_number_of_buckets_is_bounded() -> None:
    """Ten thousand strangers do not fill the memory: the longest unused bucket is forgotten."""
    limiter = Limiter(rate=0.001, burst=1, clock=Clock())
    limiter.take("first")
    for index in range(10_000):
        limiter.take(str(index))
    assert limiter.take("first").remaining == 0
    with pytest.raises(TooManyError):
        limiter.take("9999")


def test_slots_are_given_back_also_after_an_error() -> None:
    """No more than `concurrency` hold a slot; leaving frees it in any case."""
    limiter = Limiter(rate=1, burst=1, concurrency=1)
    with pytest.raises(ZeroDivisionError), limiter.slot("ada", retry_after=2):
        raise ZeroDivisionError
    with limiter.slot("ada", retry_after=2), limiter.slot("bob", retry_after=2):
        with pytest.raises(TooManyError) as caught, limiter.slot("ada", retry_after=2):
            pytest.fail("a second slot was given")
        assert caught.value.retry_after == 2
