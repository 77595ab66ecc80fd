"""The canary's share of a budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.canary_plan import NO_CANARY, RIVALS, SAMPLES, CanaryPlan, plan_canary


@given(st.integers(1, 200_000), st.integers(0, 100), st.integers(1, 2000), st.sampled_from([1, RIVALS]))
def test_by_itself_it_takes_at_most_a_hundredth(budget: int, overhead: int, generation: int, candidates: int) -> None:
    """Whatever the budget, the default canary costs no more than 1 % of it, and fits beside the generations."""
    room = max(0, budget - overhead)
    canary = plan_canary(None, budget=budget, room=room, generation=generation, candidates=candidates)
    count = canary.generations(room, generation)
    assert canary.cost(count) <= budget / 100
    assert count * generation + (canary.cost(count) if count else 0) <= room


@given(st.integers(0, 20_000), st.integers(1, 500), st.integers(1, 30), st.integers(1, 8))
def test_as_many_generations_as_fit_beside_it(room: int, generation: int, every: int, candidates: int) -> None:
    """Asked for by the user it costs what it costs; one generation more would not fit."""
    canary = plan_canary(every, budget=room, room=room, generation=generation, candidates=candidates)
    count = canary.generations(room, generation)
    assert count == 0 or count * generation + canary.cost(count) <= room
    assert (count + 1) * generation + canary.cost(count + 1) > room


def test_it_is_off_when_the_budget_is_tiny_or_the_user_says_so() -> None:
    """Four asks are the least that tell anything."""
    ask = {"room": 10_000, "generation": 96, "candidates": 1}
    assert plan_canary(None, budget=100 * 4 * SAMPLES - 1, **ask).every == 0
    assert plan_canary(None, budget=100 * 4 * SAMPLES, **ask).every > 0
    assert plan_canary(0, budget=10**6, **ask).cost(1000) == 0 == NO_CANARY.cost(1000)


def test_its_cost_is_exact() -> None:
    """Twice at the start, then every so many generations."""
    assert CanaryPlan(3, 2, 4).asks(10) == 2 + 3
    assert CanaryPlan(3, 2, 4).cost(10) == 5 * 8
