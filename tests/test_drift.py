"""How far two answers to the same question are apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from blackbox_ti.drift import drift, precision, relative_change
from blackbox_ti.evaluation import Scores
from tests.fake_host import FakeHost

CARD = FakeHost().card
LOSSES = arrays(np.float64, st.integers(1, 6), elements=st.floats(1e-3, 1e3))


@given(st.integers(1, 9), st.floats(1e-3, 1e3))
def test_rounding_alone_is_never_a_change(digits: int, loss: float) -> None:
    """Two answers that differ by one unit of the last digit told are the same answer."""
    card = CARD.model_copy(update={"reply_mode": "rounded", "reply_digits": digits})
    text = f"{loss:.{digits - 1}e}"
    unit = 10.0 ** (int(text.split("e")[1]) - digits + 1)
    before = Scores(np.zeros(1), [np.array([float(text)])])
    now = Scores(np.zeros(1), [np.array([float(text) + unit])])
    assert drift(before, now) <= precision(card) * (1 + 1e-9)


def test_the_reply_mode_says_how_exact_a_loss_is() -> None:
    """Few digits allow more; many allow no less than sums in another order do."""
    rounded = {d: precision(CARD.model_copy(update={"reply_mode": "rounded", "reply_digits": d})) for d in (1, 3, 9)}
    assert rounded[1] == 1.0
    assert rounded[3] == pytest.approx(1e-2)
    assert rounded[9] == precision(CARD) == 1e-5


@given(LOSSES, st.floats(-0.5, 0.5), st.data())
def test_one_loss_that_moved_is_the_change(losses: NDArray[np.float64], change: float, data: st.DataObject) -> None:
    """It is relative to what the loss was, wherever it stands, and nothing moved is exactly nothing."""
    moved = losses.copy()
    moved[data.draw(st.integers(0, len(losses) - 1))] *= 1 + change
    assert relative_change(losses, losses) == 0.0
    assert relative_change(losses, moved) == pytest.approx(abs(change), rel=1e-6, abs=1e-12)


def test_a_loss_of_zero_has_a_scale_too() -> None:
    """What was zero and is not any more changed by a finite amount, however much."""
    zero, one = np.zeros(1), np.ones(1)
    assert relative_change(zero, zero) == 0.0
    assert 1e30 < relative_change(zero, one) < math.inf


def test_a_candidate_that_fails_now_is_a_change() -> None:
    """A word scored before and refused now was not moved by arithmetic."""
    scored, refused = Scores(np.zeros(1), [np.ones(2)]), Scores(np.zeros(1), [None])
    assert drift(scored, refused) == drift(refused, scored) == math.inf
    assert drift(refused, refused) == 0.0


def test_the_largest_change_of_any_candidate_counts() -> None:
    """In either place."""
    before = Scores(np.zeros(2), [np.ones(2), np.ones(2)])
    for row in range(2):
        losses = [np.ones(2), np.ones(2)]
        losses[row] = np.array([1.0, 1.25])
        assert drift(before, Scores(np.zeros(2), losses)) == 0.25


def test_of_ranks_only_the_order_is_compared() -> None:
    """Another order is another answer."""
    before, same, other = (Scores(np.array(ranks), None) for ranks in ([0.0, 1.0], [0.0, 1.0], [1.0, 0.0]))
    assert drift(before, same) == 0.0
    assert drift(before, other) == math.inf
