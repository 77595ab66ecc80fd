"""Tests of receipts: signed, chained, and changed by not one byte without notice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.wire import Receipt
from server_stub.idempotency import Reservation
from server_stub.receipts import Signer, canonical, head, page, verify
from server_stub.spending import Amount
from tests.server_stub.books import Clock, OneServer, order, reply

FIELDS = {
    "sequence": 1,
    "account": "ada",
    "idempotency_key": "k",
    "request_sha256": "1" * 64,
    "route": "/v1/loss",
    "fingerprint": "2" * 64,
    "forwards": 6,
    "queries": 3,
    "price_micros": 9,
    "currency": "USD",
    "issued_at": "2026-03-31T09:00:00.000Z",
    "previous": "0" * 64,
}


def test_the_canonical_form_is_sorted_unspaced_utf8_without_the_seals() -> None:
    """The bytes that are signed are as the protocol's schema says them."""
    text = canonical({"b": 1, "a": "ä", "hash": "x", "signature": "y"})
    assert text == '{"a":"ä","b":1}'.encode()


@given(name=st.sampled_from(sorted(FIELDS)), extra=st.integers(1, 9))
def test_a_receipt_with_one_field_changed_does_not_verify(name: str, extra: int) -> None:
    """Every field is under the hash and the signature."""
    signer = Signer.at_seed(bytes(32))
    sealed = signer.seal(FIELDS).model_dump()
    value = sealed[name]
    sealed[name] = value + extra if isinstance(value, int) else _changed(value, extra)
    assert verify(signer.seal(FIELDS), signer.public_key)
    assert not verify(Receipt.model_validate(sealed), signer.public_key)


def _changed(text: str, extra: int) -> str:
    """Return `text` with its first character another hex digit."""
    return "0123456789abcdef"[(int(text[0], 16) + extra) % 16 if text[0] in "0123456789abcdef" else 0] + text[1:]


def test_another_hosts_key_does_not_verify() -> None:
    """A receipt verifies with its signer's key alone."""
    first, second = Signer.at_seed(bytes(32)), Signer.at_seed(bytes([1]) * 32)
    assert not verify(first.seal(FIELDS), second.public_key)


def test_the_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    """The first start makes the key with mode 0600, and later starts find the same."""
    path = tmp_path / "receipts.key"
    first = Signer.at(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Signer.at(path).public_key == first.public_key
    assert [entry.name for entry in tmp_path.iterdir()] == ["receipts.key"]


def test_a_key_file_that_others_may_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    """A start with an exposed or broken key says what to do."""
    path = tmp_path / "receipts.key"
    Signer.at(path)
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        Signer.at(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        Signer.at(path)


def test_a_derived_secret_is_stable_and_its_own(tmp_path: Path) -> None:
    """A purpose has the same secret at every start, another purpose another, and neither is the key."""
    signer = Signer.at(tmp_path / "key")
    derived = signer.derived(b"concepts")
    assert (len(derived), derived) == (32, Signer.at(tmp_path / "key").derived(b"concepts"))
    assert derived not in {signer.derived(b"other"), (tmp_path / "key").read_bytes()}


def test_pages_put_together_are_the_chain(tmp_path: Path) -> None:
    """Paging by `next_after` yields every receipt once, in order, linked from 64 zeros to the head."""
    server = OneServer(tmp_path, Clock())
    account = server.accounts.ensure("ada")
    for index in range(5):
        held = server.operations.begin(order(account, f"k{index}"), Amount(1))
        assert isinstance(held, Reservation)
        server.operations.settle(held, Amount(1), reply)
    found, after = [], 0
    while True:
        part = page(server.books, account, after=after, limit=2)
        found += part.receipts
        if part.next_after is None:
            break
        after = part.next_after
    assert [receipt.sequence for receipt in found] == [1, 2, 3, 4, 5]
    assert [receipt.previous for receipt in found] == ["0" * 64, *(receipt.hash for receipt in found[:-1])]
    assert head(server.books, account) == (5, found[-1].hash)
    assert page(server.books, server.accounts.ensure("bob"), after=0, limit=9).receipts == []
    assert json.loads(found[0].model_dump_json())["issued_at"] == "2026-03-31T09:00:00.000Z"
    server.die()
