"""Tests of what leaves the host."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from blackbox_ti.wire import decode_tensor
from server_stub.hosting.model import HostedModel
from server_stub.problems import ProblemError
from server_stub.replies import cost_of_scored, ranking, rounded, vocabulary_reply
from server_stub.settings import Settings
from tests.server_stub.fake_engine import TOKENS, FakeEngine

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


@given(losses=LOSSES, data=st.data())
def test_what_has_no_finite_losses_costs_nothing(losses: NDArray[np.float32], data: st.DataObject) -> None:
    """The others cost what they would alone."""
    bad = data.draw(st.sets(st.integers(0, len(losses) - 1)))
    for row in bad:
        losses[row, data.draw(st.integers(0, losses.shape[1] - 1))] = data.draw(st.sampled_from([np.nan, np.inf]))
    good = len(losses) - len(bad)
    assert cost_of_scored(losses) == (good * losses.shape[1], good)
    assert cost_of_scored(losses[:0]) == (0, 0)


CARD = HostedModel(FakeEngine(), Settings(vocabulary=True)).card


@given(offset=st.integers(0, 2 * len(TOKENS)), most=st.integers(1, 2 * len(TOKENS)))
def test_a_page_of_the_vocabulary_is_a_slice_of_the_table(offset: int, most: int) -> None:
    """Tokens and their rows together, and how many there are in all."""
    engine = FakeEngine()
    tokens, table = engine.vocabulary("text")
    page = vocabulary_reply(engine, CARD, "text", offset, most)
    assert (page.total, page.offset) == (len(tokens), offset)
    assert page.tokens == list(tokens[offset : offset + most])
    np.testing.assert_array_equal(decode_tensor(page.embeddings), table[offset : offset + most])


def test_long_rows_make_short_pages() -> None:
    """A page has a bounded number of bytes, but a row at the least."""
    wide = CARD.model_copy(update={"encoders": [CARD.encoders[0].model_copy(update={"dim": 2**21})]})
    assert len(vocabulary_reply(FakeEngine(), wide, "text", 0, 4).tokens) == 2
    wider = CARD.model_copy(update={"encoders": [CARD.encoders[0].model_copy(update={"dim": 2**30})]})
    assert len(vocabulary_reply(FakeEngine(), wider, "text", 0, 4).tokens) == 1


def test_a_vocabulary_that_is_not_offered_is_not_shown() -> None:
    """Nor that of an encoder there is not."""
    with pytest.raises(ProblemError, match="does not offer"):
        vocabulary_reply(FakeEngine(), CARD.model_copy(update={"vocabulary": False}), "text", 0, 1)
    with pytest.raises(ProblemError, match="encoders are text"):
        vocabulary_reply(FakeEngine(), CARD, "other", 0, 1)
