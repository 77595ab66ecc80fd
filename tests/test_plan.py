"""Plans fit their budgets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blackbox_ti.errors import BudgetTooSmallError, InputError
from blackbox_ti.plan import InversionSettings, make_plan
from tests.fake_host import FakeHost

CARD = FakeHost(dim=64).card


@given(
    st.integers(1, 60_000), st.integers(1, 20), st.sampled_from([None, 1, 3, 50]), st.sampled_from([None, 2, 7, 40]),
    st.sampled_from([None, 0, 1, 5]), st.sampled_from([None, 1, 30]),
)  # fmt: skip
def test_a_plan_never_costs_more_than_its_budget(
    budget: int, words: int, samples: int | None, popsize: int | None, checks: int | None, heldout: int | None
) -> None:
    """Whatever is set, the parts add up to at most the cap; or the error says what would do."""
    settings = InversionSettings(
        max_forwards=budget, samples=samples, popsize=popsize, heldout_checks=checks, heldout=heldout
    )
    try:
        plan = make_plan(settings, CARD, vocabulary=500, words=words)
    except BudgetTooSmallError as error:
        least = int(str(error).split("at least ")[1].split()[0])
        assert least > budget
        make_plan(settings.model_copy(update={"max_forwards": 4 * least}), CARD, vocabulary=500, words=words)
        return
    assert plan.total == plan.race_cost + plan.search_cost + plan.heldout_cost + plan.canary_cost <= budget
    assert plan.generations >= 1
    judged = sum(
        g % plan.check_every == 0 or g == plan.generations for g in range(1, plan.generations + 1)
    ) if plan.heldout else 0  # fmt: skip
    assert judged <= plan.checks


@pytest.mark.parametrize("budget", [500, 5_000, 50_000])
def test_a_plan_says_how_it_is_arranged(budget: int) -> None:
    """The search arranges itself for small and large budgets, spends most on searching, and says so."""
    plan = make_plan(InversionSettings(max_forwards=budget), CARD, vocabulary=500, words=8)
    assert plan.search_cost > 0.5 * budget
    assert f"{plan.generations} generations" in plan.describe()
    assert f"{budget:,}" in plan.describe()


def test_without_a_vocabulary_directions_are_random() -> None:
    """Principal axes need words."""
    assert make_plan(InversionSettings(), CARD, vocabulary=0, words=1).subspace == "random"
    with pytest.raises(InputError, match="random"):
        make_plan(InversionSettings(subspace="pca"), CARD, vocabulary=0, words=1)


def test_a_small_vocabulary_has_few_axes() -> None:
    """There are no more principal axes than words, less one."""
    assert make_plan(InversionSettings(), CARD, vocabulary=12, words=1).dimension == 11
    assert make_plan(InversionSettings(), CARD, vocabulary=500, words=1).dimension == 64


def test_the_full_space_has_every_coordinate() -> None:
    """Each vector of each encoder counts."""
    plan = make_plan(InversionSettings(subspace="full", num_vectors=2), CARD, vocabulary=500, words=1)
    assert plan.dimension == 128


@pytest.mark.parametrize(
    "wrong",
    [{"popsize": 1}, {"max_forwards": 0}, {"sigma": 0.0}, {"sigma": float("nan")}, {"t_min": 0.6, "t_max": 0.4},
     {"seed": -1}, {"learnable_property": "thing"}, {"colour": "red"}, {"num_vectors": 0}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    """Out of range, not a number, or unknown."""
    with pytest.raises(ValidationError):
        InversionSettings(**wrong)  # type: ignore[arg-type]
