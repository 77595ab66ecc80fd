"""Plans fit their budgets."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.errors import BudgetTooSmallError, InputError
from blackbox_ti.plan import affordable_race, make_plan
from blackbox_ti.settings import InversionSettings
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


def test_the_papers_plan_says_what_it_is() -> None:
    """Its noise, its axes, its answer, and where the host has fewer dimensions than it asks."""
    settings = InversionSettings(preset="paper", max_forwards=5000)
    told = make_plan(settings, CARD, vocabulary=500, words=8).describe()
    for said in ("20 candidates x 25 samples", "256 dimensions asked, 64 there are", "noise of its own", "length 1",
                 "mean word", "luckiest"):  # fmt: skip
        assert said in told
    other = make_plan(settings.model_copy(update={"subspace": "random"}), CARD, vocabulary=500, words=8).describe()
    assert "length 1" not in other


def test_noise_of_its_own_costs_the_same_forwards() -> None:
    """Only the number of calls differs, and a call's candidates are what is queried."""
    plans = [
        make_plan(InversionSettings(common_noise=common), CARD, vocabulary=500, words=8) for common in (True, False)
    ]
    together, apart = (plan.cost(CARD) for plan in plans)
    assert together == apart
    assert together.forwards == plans[0].total


@pytest.mark.parametrize("answer", ["mean", "luckiest"])
def test_an_answer_that_is_not_judged_buys_no_judgement(answer: str) -> None:
    """Both ends are still reported; the rest goes into the search."""
    settings = InversionSettings(answer=answer)  # type: ignore[arg-type]
    plan, judged = (make_plan(s, CARD, vocabulary=500, words=8) for s in (settings, InversionSettings()))
    assert plan.checks == 0
    assert plan.heldout_cost == 2 * plan.report > 0
    assert plan.generations > judged.generations


def test_a_larger_budget_is_arranged_otherwise() -> None:
    """From 500 to 50,000 forwards: more dimensions or candidates, larger banks to judge on, never less of either."""
    plans = [make_plan(InversionSettings(max_forwards=b), CARD, vocabulary=500, words=8) for b in (500, 5_000, 50_000)]
    sizes = [(p.dimension, p.popsize, p.samples, p.report, p.checks, p.race) for p in plans]
    assert all(a <= b for small, large in pairwise(sizes) for a, b in zip(small, large, strict=True))
    assert len(set(sizes)) == 3
    for plan in plans:
        told = plan.describe()
        assert f"{plan.popsize} candidates x {plan.samples} samples" in told
        assert f"{plan.dimension} dimensions" in told
        assert "a fresh bank every generation" in told
    kept = make_plan(InversionSettings(rotate_every=4), CARD, vocabulary=500, words=8)
    assert "a bank kept for 4 generations" in kept.describe()


def test_steps_are_small_about_the_winner_of_a_race() -> None:
    """Where one plain word was at hand the search goes far; what the user says holds, and the plan says which."""
    settings = InversionSettings()
    raced = make_plan(settings, CARD, vocabulary=500, words=8)
    alone = make_plan(settings, CARD, vocabulary=500, words=1)
    style = make_plan(InversionSettings(learnable_property="style"), CARD, vocabulary=500, words=8)
    assert raced.sigma < style.sigma < alone.sigma
    assert f"sigma {alone.sigma:g}" in alone.describe()
    assert make_plan(InversionSettings(sigma=2.5), CARD, vocabulary=500, words=8).sigma == 2.5


@given(st.integers(500, 100_000), st.integers(1, 40), st.integers(1, 40), st.integers(1, 64), st.booleans())
def test_races_take_a_sixth_of_the_budget_at_most(
    budget: int, race: int, words: int, samples: int, extends: bool
) -> None:
    """However many starts there are and whatever each is asked, and no more of them race than are wanted."""
    settings = InversionSettings(max_forwards=budget, race=race, race_samples=samples)
    plan = make_plan(settings, CARD, vocabulary=500, words=words, extends=extends)
    assert plan.race_cost <= budget / 6
    assert plan.race <= affordable_race(settings, CARD) <= race
    assert 1 <= plan.race <= min(race, words)
    assert len(plan.races) <= (1 + settings.extensions if extends else 1)


def test_the_best_of_many_starts_race_again_on_a_larger_bank() -> None:
    """The second round has fewer starts and more samples; few starts race in one round, or in none."""
    settings = InversionSettings(race=16, race_samples=8)
    races = {words: make_plan(settings, CARD, vocabulary=500, words=words).races for words in (1, 7, 8, 20)}
    assert races == {1: (), 7: (((7, 8),),), 8: (((8, 4), (2, 16)),), 20: (((16, 4), (4, 16)),)}


def test_what_the_race_leaves_of_its_share_extends_the_winner() -> None:
    """As often as that pays for and is wanted; never without a race, or where nothing can be extended."""

    def extensions(budget: int, **settings: Any) -> int:
        asked = InversionSettings(max_forwards=budget, **settings)
        return len(make_plan(asked, CARD, vocabulary=500, words=16, extends=True).races) - 1

    assert [extensions(n) for n in (2000, 5000, 20_000)] == [0, 3, 6]
    assert extensions(20_000, extensions=1) == 1
    assert extensions(20_000, extensions=0) == 0
    alone = make_plan(InversionSettings(race=1), CARD, vocabulary=500, words=16, extends=True)
    assert (alone.races, alone.race_cost) == ((), 0)
