"""Banks and fitness."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.objective import BankSettings, draw_bank, fitness_of, prompts_for


@given(st.integers(1, 8), st.integers(1, 12), st.integers(1, 40), st.integers(0, 1000))
def test_a_bank_spreads_evenly(images: int, prompts: int, size: int, seed: int) -> None:
    """Timesteps are stratified; pictures and prompts come equally often to within one."""
    bank = draw_bank(BankSettings(images, prompts, 0.2, 0.8), size, np.random.default_rng(seed))
    assert len(bank) == size
    strata = sorted(int((s.t - 0.2) / 0.6 * size) for s in bank)
    assert strata == list(range(size))
    for options, drawn in ((images, [s.image for s in bank]), (prompts, [s.prompt for s in bank])):
        counts = np.bincount(drawn, minlength=options)
        assert len(counts) == options
        assert counts.max() - counts.min() <= 1


def test_a_bank_may_use_few_prompts_at_once() -> None:
    """Each bank keeps to as many as asked, and many banks come to all."""
    rng = np.random.default_rng(0)
    banks = [draw_bank(BankSettings(1, 6, prompts_at_once=2), 8, rng) for _ in range(30)]
    assert {len({s.prompt for s in bank}) for bank in banks} == {2}
    assert {s.prompt for bank in banks for s in bank} == set(range(6))


def test_a_bank_is_its_seed() -> None:
    """The same generator draws the same bank; another one another."""
    first, again, other = (draw_bank(BankSettings(3, 4), 8, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_fitness_is_the_mean_and_a_rejected_candidate_is_worst() -> None:
    """A candidate without losses ends behind all others, with a finite number."""
    fitness = fitness_of([np.array([1.0, 3.0]), None, np.array([5.0, 5.0])])
    assert fitness[0] == 2.0
    assert fitness[1] > fitness[2]
    assert np.isfinite(fitness).all()
    assert np.isfinite(fitness_of([None, None])).all()


@pytest.mark.parametrize("kind", ["object", "style"])
def test_every_prompt_names_the_placeholder(kind: str) -> None:
    """Templates are filled in with the word."""
    prompts = prompts_for(kind, "<sks>")  # type: ignore[arg-type]
    assert len(set(prompts)) == len(prompts) >= 6
    assert all(p.count("<sks>") == 1 for p in prompts)
    assert all(("style" in p) == (kind == "style") for p in prompts)
