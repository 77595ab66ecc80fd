"""One try on the wire, as it is told to whoever listens."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from blackbox_ti.attempt import Attempt, Call
from blackbox_ti.ledger_schema import TABLES


def test_every_field_of_an_attempt_has_its_column() -> None:
    """The ledger keeps all that is known of an attempt."""
    assert {field.name for field in fields(Attempt)} == set(TABLES["attempts"])


def test_a_call_cannot_change_between_attempts() -> None:
    """The bytes and the key of a call are the same for every attempt."""
    call = Call(method="POST", path="/v1/loss", body=b"x", idempotency_key="k")
    with pytest.raises(FrozenInstanceError):
        call.body = b"y"  # type: ignore[misc]
