"""What an endpoint says of itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blackbox_ti.wire_card import Encoder, Limits, ModelCard, Prices
from tests.fake_host import FakeHost

CARD: dict[str, Any] = FakeHost().card.model_dump()
NEEDED = (
    "protocol_version",
    "model",
    "family",
    "fingerprint",
    "encoders",
    "resolution",
    "prediction_type",
    "objectives",
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoders": []},
        {"encoders": [CARD["encoders"][0]] * 9},
        {"encoders": [CARD["encoders"][0] | {"dim": 0}]},
        {"encoders": [CARD["encoders"][0] | {"norm_mean": float("nan")}]},
        {"fingerprint": "f" * 63},
        {"fingerprint": "F" * 64},
        {"receipt_public_key": "key"},
        {"resolution": 0},
        {"objectives": ["loss", "tea"]},
        {"reply_mode": "vague"},
        {"limits": {"max_candidates": 0}},
        {"limits": {"max_norm": float("inf")}},
        {"prices": {"currency": "usd"}},
        {"prices": {"forward_micros": -1}},
        {"model": "m" * 257},
    ],
)
def test_a_card_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """A client plans and pays by the card, so nonsense ends there."""
    assert ModelCard.model_validate(CARD)
    with pytest.raises(ValidationError):
        ModelCard.model_validate(CARD | wrong)


@pytest.mark.parametrize("field", NEEDED)
def test_what_a_search_cannot_do_without_has_to_be_said(field: str) -> None:
    """A card that leaves it out is refused."""
    with pytest.raises(ValidationError, match=field):
        ModelCard.model_validate({name: value for name, value in CARD.items() if name != field})


def test_a_terse_host_promises_the_least() -> None:
    """What it does not say: exact replies, no vocabulary, no price, no receipts, and the protocol's own limits."""
    terse = {name: CARD[name] for name in NEEDED}
    card = ModelCard.model_validate(terse)
    assert (card.reply_mode, card.reply_digits, card.vocabulary, card.receipt_public_key) == (
        "exact",
        None,
        False,
        None,
    )
    assert (card.limits, card.prices) == (Limits(), Prices(currency="USD", forward_micros=0, query_micros=0))


@given(
    st.integers(1, 2**31), st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**63), st.booleans()
)  # fmt: skip
def test_a_card_round_trips_through_json(dim: int, norm: float, price: int, vocabulary: bool) -> None:
    """To the bit, and what a newer host adds is ignored."""
    encoder = Encoder(name="text", dim=dim, norm_mean=norm, norm_std=norm / 2)
    prices = Prices(forward_micros=price, query_micros=price)
    card = FakeHost().card.model_copy(update={"encoders": [encoder], "prices": prices, "vocabulary": vocabulary})
    assert ModelCard.model_validate_json(card.model_dump_json()) == card
    assert ModelCard.model_validate(card.model_dump() | {"mood": "good"}) == card


def test_a_card_does_not_change() -> None:
    """Its limits are shared by every part of a run."""
    card = ModelCard.model_validate(CARD)
    for record, name in ((card, "model"), (card.limits, "max_samples"), (card.prices, "currency")):
        with pytest.raises(ValidationError):
            setattr(record, name, getattr(record, name))
