"""What calls cost, and what caps allow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.budget import Caps, Cost, charge_of, check_caps, cost_of, cost_of_images, cost_of_losses
from blackbox_ti.errors import BudgetSpentError, InputError
from blackbox_ti.wire import Charge, Prices

COUNTS = st.integers(0, 10**6)
COSTS = st.builds(Cost, COUNTS, COUNTS, COUNTS)


def test_the_cost_of_losses_is_exact() -> None:
    """A loss request costs a forward a candidate and sample, a query a candidate, at the host's prices."""
    assert cost_of_losses(3, 4, Prices(forward_micros=5, query_micros=7)) == Cost(12, 3, 12 * 5 + 3 * 7)


@pytest.mark.parametrize(("guidance", "forwards"), [(0.0, 50), (1.0, 50), (1.5, 100)])
def test_the_cost_of_images_is_exact(guidance: float, forwards: int) -> None:
    """A picture costs its steps, twice with guidance."""
    assert cost_of_images(2, 25, guidance, Prices(query_micros=10)) == Cost(forwards, 2, 20)


@given(COSTS)
def test_a_charge_comes_to_its_cost(cost: Cost) -> None:
    """Each amount in its place."""
    charge = Charge(forwards=cost.forwards, queries=cost.queries, price_micros=cost.price_micros)
    assert cost_of(charge) == cost


def test_a_cost_becomes_a_charge_at_the_prices() -> None:
    """And costs no money where there are none."""
    assert cost_of(charge_of((12, 3), Prices(forward_micros=5, query_micros=7))) == Cost(12, 3, 12 * 5 + 3 * 7)
    assert cost_of(charge_of((12, 3))) == Cost(12, 3, 0)


@given(COSTS, COSTS)
def test_costs_add_and_subtract(left: Cost, right: Cost) -> None:
    """Taking away what was added changes nothing."""
    assert left + right - right == left


@given(COSTS, COSTS, COUNTS)
def test_a_cap_is_kept_to_the_last_unit(spent: Cost, cost: Cost, cap: int) -> None:
    """A call passes where it fits to the last forward, and is refused where it is one too many."""
    caps = Caps(forwards=cap)
    if spent.forwards + cost.forwards <= cap:
        check_caps(caps, spent, 0.0, cost)
    else:
        with pytest.raises(BudgetSpentError, match="forwards"):
            check_caps(caps, spent, 0.0, cost)


@pytest.mark.parametrize("cap", [Caps(queries=1), Caps(price_micros=1), Caps(wall_seconds=1.0)])
def test_every_cap_is_checked(cap: Caps) -> None:
    """Whichever cap comes first stops the run."""
    check_caps(Caps(), Cost(2, 2, 2), 9.0, Cost(1, 1, 1))
    with pytest.raises(BudgetSpentError):
        check_caps(cap, Cost(2, 2, 2), 9.0, Cost(1, 1, 1))


@pytest.mark.parametrize("value", [-1, -0.5, float("nan")])
def test_a_cap_that_is_no_amount_is_an_input_error(value: float) -> None:
    """A negative cap, or NaN, which would compare as no cap at all, is a mistake."""
    with pytest.raises(InputError, match="wall_seconds"):
        Caps(wall_seconds=value)
