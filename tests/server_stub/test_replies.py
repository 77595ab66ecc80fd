"""Tests of what leaves the host."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from server_stub.replies import ranking, rounded

LOSSES = st_numpy.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 5)),
    elements=st.floats(2.0**-20, 1e6, width=32),
)


@given(losses=LOSSES, digits=st.integers(1, 8))
def test_rounding_keeps_so_many_digits_and_no_more(losses: NDArray[np.float32], digits: int) -> None:
    """A rounded loss is within half a unit of its last digit, and rounding it again changes nothing."""
    told = rounded(losses, digits)
    unit = 10.0 ** (np.floor(np.log10(losses.astype(np.float64))) - digits + 1)
    assert (np.abs(told.astype(np.float64) - losses) <= 0.5001 * unit + 1e-6 * losses).all()
    np.testing.assert_array_equal(rounded(told, digits), told)


@given(losses=LOSSES)
def test_a_ranking_is_a_permutation_by_mean_loss(losses: NDArray[np.float32]) -> None:
    """All candidates are ranked once, the mean losses ascend along the ranking, and scaling by two changes nothing."""
    names = [10 * index for index in range(len(losses))]
    order = ranking(losses, names)
    means = losses.mean(axis=1, dtype=np.float64)
    assert sorted(order) == names
    assert (np.diff([means[name // 10] for name in order]) >= 0).all()
    assert ranking(losses * np.float32(2), names) == order


def test_equal_losses_are_ranked_in_the_order_asked() -> None:
    """A tie tells nothing: the first comes first."""
    assert ranking(np.ones((3, 2), np.float32), [4, 7, 9]) == [4, 7, 9]
