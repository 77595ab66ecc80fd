"""Asking more often where candidates differ, with the mean left what it was."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from blackbox_ti.objective import BankSettings, draw_bank
from blackbox_ti.timesteps import Focus, FocusedBank
from blackbox_ti.wire import Sample

BANDS = 5


def _bank(size: int, t_min: float = 0.0, t_max: float = 1.0, seed: int = 0) -> list[Sample]:
    return draw_bank(BankSettings(3, 2, t_min, t_max), size, np.random.default_rng(seed))


def _taught(spreads: list[float]) -> Focus:
    """A focus that has seen candidates differ by so much in each band."""
    focus, rng = Focus(), np.random.default_rng(1)
    for seed in range(20):
        bank = _bank(40, seed=seed)
        bands = [min(BANDS - 1, int(s.t * BANDS)) for s in bank]
        losses = np.array(spreads)[bands] * rng.standard_normal((6, len(bank)))
        focus.learn(bank, list(losses))
    return focus


def _times(bank: list[Sample]) -> NDArray[np.float64]:
    return np.array([s.t for s in bank])


def test_until_something_is_learned_nothing_changes() -> None:
    """A bank keeps its timesteps, and every sample counts alike; one candidate alone, or none, teaches nothing."""
    focus, bank = Focus(), _bank(8)
    focus.learn(bank, [np.arange(8.0), None])
    found = focus.bank(bank)
    assert np.allclose(_times(found), _times(bank), atol=1e-12)
    assert np.array_equal(found.weights, np.ones(8))


def test_more_is_asked_where_candidates_differ() -> None:
    """Bands of ten times the spread get most of the samples, the quiet ones keep a share."""
    found = _taught([1, 1, 1, 1, 10]).bank(_bank(1000))
    late = _times(found) > 0.8
    assert late.mean() > 0.45
    assert ((_times(found) < 0.2).mean()) > 0.06
    assert found.weights[late].max() < found.weights[~late].min()


@given(st.lists(st.floats(0.01, 100), min_size=BANDS, max_size=BANDS), st.floats(0, 0.4), st.floats(0.6, 1))
def test_the_weighted_mean_is_the_mean_over_all_timesteps(spreads: list[float], t_min: float, t_max: float) -> None:
    """Whatever was learned, for any function of the timestep; and no timestep leaves the range."""
    found = _taught(spreads).bank(_bank(4000, t_min, t_max), t_min, t_max)
    t = _times(found)
    assert t_min <= t.min() <= t.max() <= t_max
    for power in (0, 1, 2):
        wanted = (t_max ** (power + 1) - t_min ** (power + 1)) / ((power + 1) * (t_max - t_min))
        assert np.isclose((found.weights * t**power).mean(), wanted, rtol=5e-3)


@given(st.floats(-10, 10))
def test_what_a_sample_costs_every_candidate_alike_teaches_nothing(shift: float) -> None:
    """Only differences between candidates count."""
    rng, bank = np.random.default_rng(2), _bank(30)
    losses = rng.standard_normal((4, 30))
    plain, shifted = Focus(), Focus()
    plain.learn(bank, list(losses))
    shifted.learn(bank, list(losses + shift * _times(bank)))
    assert np.allclose(plain.density, shifted.density)


def test_the_estimate_of_a_difference_gets_less_noisy() -> None:
    """Where late timesteps hold nearly all the noise, banks of eight tell two candidates apart with half the variance."""
    focus = _taught([0.02, 0.05, 0.1, 0.5, 1.0])
    rng = np.random.default_rng(3)

    def variance(bent: bool) -> float:
        means = []
        for seed in range(2000):
            bank = _bank(8, seed=seed)
            found = focus.bank(bank) if bent else FocusedBank(bank, np.ones(8))
            scale = np.array([0.02, 0.05, 0.1, 0.5, 1.0])[np.minimum((_times(found) * BANDS).astype(int), BANDS - 1)]
            means.append((found.weights * scale * rng.standard_normal(8)).mean())
        return float(np.var(means))

    assert variance(bent=True) < 0.6 * variance(bent=False)
