"""What requests cost, and the records of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blackbox_ti.wire_books import Charge, Receipt, ReceiptsReply, UsageReply, images_cost, loss_cost

RECEIPT: dict[str, Any] = {
    "sequence": 1,
    "account": "a",
    "idempotency_key": "k",
    "request_sha256": "0" * 64,
    "route": "/v1/loss",
    "fingerprint": "1" * 64,
    "forwards": 6,
    "queries": 3,
    "price_micros": 0,
    "currency": "USD",
    "issued_at": "2026-01-01T00:00:00Z",
    "previous": "2" * 64,
    "hash": "3" * 64,
    "signature": "4" * 128,
}


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_loss_costs_add_up_over_any_split(candidates: int, samples: int) -> None:
    """Splitting a request by candidates changes no cost."""
    whole = loss_cost(candidates, samples)
    left, right = loss_cost(candidates // 2, samples), loss_cost(candidates - candidates // 2, samples)
    assert whole == (left[0] + right[0], left[1] + right[1])


@pytest.mark.parametrize(("guidance", "passes"), [(0.0, 1), (1.0, 1), (1.01, 2), (7.5, 2)])
def test_guidance_doubles_an_image(guidance: float, passes: int) -> None:
    """An image costs its steps, twice where guidance needs a second pass."""
    assert images_cost(3, 10, guidance) == (30 * passes, 3)


@given(st.integers(1, 200), st.integers(0, 200), st.integers(1, 100), st.floats(0, 50))
def test_image_costs_add_up_over_any_split(items: int, cut: int, steps: int, guidance: float) -> None:
    """Splitting a request by its pictures changes no cost."""
    cut = min(cut, items)
    left, right = images_cost(cut, steps, guidance), images_cost(items - cut, steps, guidance)
    assert images_cost(items, steps, guidance) == (left[0] + right[0], left[1] + right[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"sequence": 0},
        {"forwards": -1},
        {"price_micros": 0.5},
        {"hash": "3" * 63},
        {"previous": "G" * 64},
        {"signature": "4" * 64},
        {"signature": "4" * 129},
        {"account": "a" * 257},
    ],
)
def test_a_receipt_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """Counts, hashes and the signature have their forms, so that checking them needs no guards."""
    assert Receipt.model_validate(RECEIPT).forwards == 6
    with pytest.raises(ValidationError):
        Receipt.model_validate(RECEIPT | wrong)


@given(st.integers(0, 2**70), st.integers(0, 2**70), st.integers(0, 2**70))
def test_records_of_charges_round_trip_through_json(forwards: int, queries: int, price: int) -> None:
    """Money and counts are integers of any size, exact on both sides."""
    cost = {"forwards": forwards, "queries": queries, "price_micros": price}
    receipt = Receipt.model_validate(RECEIPT | cost)
    for record in (
        receipt,
        Charge.model_validate(cost | {"receipt": receipt}),
        UsageReply.model_validate({"account": "a", "currency": "USD", **cost}),
        ReceiptsReply(receipts=[receipt], next_after=1),
    ):
        assert type(record).model_validate_json(record.model_dump_json()) == record


def test_an_account_without_caps_says_so() -> None:
    """No cap is null, which is not a cap of nothing."""
    usage = UsageReply(account="a", forwards=0, queries=0, price_micros=0, currency="USD")
    assert (usage.max_forwards, usage.max_queries, usage.max_price_micros, usage.head) == (None,) * 4
    assert UsageReply.model_validate(usage.model_dump() | {"max_forwards": 0}).max_forwards == 0
