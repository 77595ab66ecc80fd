"""How well losses tell words apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.doctor_noise import FEWEST, MOST, Spread, samples_needed, spread_of


def test_planted_spreads_are_found() -> None:
    """Words, samples and what is left over, each apart, in a table large enough to tell."""
    rng = np.random.default_rng(0)
    table = 1.0 + rng.normal(0, 0.3, (400, 1)) + rng.normal(0, 2.0, (1, 400)) + rng.normal(0, 0.1, (400, 400))
    found = spread_of(table)
    assert found.words == pytest.approx(0.3, rel=0.1)
    assert found.samples == pytest.approx(2.0, rel=0.1)
    assert found.residual == pytest.approx(0.1, rel=0.02)


@given(st.integers(2, 8), st.integers(2, 20), st.floats(-5, 5), st.integers(0, 1000))
def test_what_all_words_share_is_no_noise(words: int, samples: int, shift: float, seed: int) -> None:
    """A shift of a sample for all words changes the spread between samples alone."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(words, samples))
    moved = table + shift * rng.normal(size=(1, samples))
    assert spread_of(moved).residual == pytest.approx(spread_of(table).residual, abs=1e-9)
    assert spread_of(moved).words == pytest.approx(spread_of(table).words, abs=1e-6)


@given(st.floats(1e-6, 1e3), st.floats(0, 1e3))
def test_more_noise_never_takes_fewer_samples(words: float, residual: float) -> None:
    """Between the fewest and the most, and growing with the noise."""
    fewer = samples_needed(Spread(words, 0.0, residual))
    more = samples_needed(Spread(words, 0.0, 2 * residual))
    assert FEWEST <= fewer <= more <= MOST


def test_the_mean_of_that_many_samples_is_twice_as_good_as_needed() -> None:
    """The noise of a mean is half the spread between words."""
    needed = samples_needed(Spread(0.1, 1.0, 0.2))
    assert needed == 16
    assert 0.2 / np.sqrt(needed) == pytest.approx(0.05)
    assert samples_needed(Spread(0.0, 1.0, 0.2)) == MOST
