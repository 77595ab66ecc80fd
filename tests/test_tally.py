"""Counting what calls came to."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_ti.tally import Tally
from blackbox_ti.wire import Charge

AMOUNT = st.integers(0, 10**12)
CHARGES = st.lists(st.builds(Charge, forwards=AMOUNT, queries=AMOUNT, price_micros=AMOUNT), max_size=6)


@settings(max_examples=30)
@given(CHARGES)
def test_usage_is_the_sum_of_the_charges(charges: list[Charge]) -> None:
    """Each of the three amounts by itself, under the account and currency asked for."""
    tally = Tally()
    for charge in charges:
        tally.count(charge)
    usage = tally.usage("mine", "EUR")
    assert (usage.account, usage.currency) == ("mine", "EUR")
    assert usage.forwards == sum(c.forwards for c in charges)
    assert usage.queries == sum(c.queries for c in charges)
    assert usage.price_micros == sum(c.price_micros for c in charges)


def test_threads_lose_nothing() -> None:
    """What many threads count at once adds up, and no reading falls between the amounts of one charge."""
    tally = Tally()
    charge = Charge(forwards=1, queries=1, price_micros=1)

    def work(_: int) -> bool:
        tally.count(charge)
        usage = tally.usage("mine", "USD")
        return usage.forwards == usage.queries == usage.price_micros

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(400)))
    finally:
        sys.setswitchinterval(before)
    assert tally.usage("mine", "USD").forwards == 400
