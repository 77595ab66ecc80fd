"""Receipts: hash, signature and chain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from blackbox_ti.receipts import chain_faults, order_faults, seal_faults
from blackbox_ti.wire import Receipt
from tests.fake_host import FakeHost, fake_endpoint, loss_request, png


@pytest.fixture(scope="module")
def told() -> tuple[list[Receipt], str]:
    """Four receipts of one account, and the host's key."""
    host = FakeHost()
    endpoint = fake_endpoint(host)
    concept = endpoint.register_concept([png()])
    for n in range(4):
        endpoint.losses(loss_request(concept, np.full((1, 1, 8), n)), label="x")
    assert host.card.receipt_public_key is not None
    return host.receipts, host.card.receipt_public_key


def test_a_true_chain_has_no_faults(told: tuple[list[Receipt], str]) -> None:
    """Hashes, signatures and order of a host's own receipts hold."""
    receipts, key = told
    assert seal_faults(receipts, key) == []
    assert order_faults(receipts) == order_faults(receipts[1:3]) == order_faults([receipts[3], receipts[0]]) == []
    assert chain_faults(receipts, receipts[-1].hash) == []
    assert chain_faults([], None) == []


CHANGES: list[dict[str, Any]] = [
    {"account": "other"},
    {"idempotency_key": "other"},
    {"request_sha256": "0" * 64},
    {"route": "/v1/images"},
    {"fingerprint": "0" * 64},
    {"forwards": 1},
    {"queries": 9},
    {"price_micros": 0},
    {"currency": "EUR"},
    {"issued_at": "2020-01-01T00:00:00Z"},
    {"previous": "0" * 64},
    {"hash": "0" * 64},
    {"signature": "0" * 128},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(next(iter(change))))
def test_a_change_in_any_field_names_the_receipt(told: tuple[list[Receipt], str], change: dict[str, Any]) -> None:
    """No field of a receipt can be changed unseen."""
    receipts, key = told
    forged = [*receipts[:2], receipts[2].model_copy(update=change), receipts[3]]
    assert seal_faults(forged, key)
    assert all("receipt 3 " in fault for fault in seal_faults(forged, key))


def test_another_hosts_signature_does_not_pass(told: tuple[list[Receipt], str]) -> None:
    """Receipts signed by another key are not this host's."""
    other = FakeHost(seed=1).card.receipt_public_key
    assert other is not None
    assert len(seal_faults(told[0], other)) == 4


def test_gaps_forks_and_lost_ends_of_a_chain_are_found(told: tuple[list[Receipt], str]) -> None:
    """A receipt left out, put twice, or cut from the end breaks the chain where it is."""
    receipts, _ = told
    head = receipts[-1].hash
    assert chain_faults([receipts[0], *receipts[2:]], head) == ["receipt 2 is missing from the host's chain"]
    assert chain_faults(receipts[:3], head) == ["the host's chain does not end in the head it tells"]
    assert order_faults([receipts[1], receipts[1]]) == ["receipt 2 exists twice"]
    fork = receipts[2].model_copy(update={"previous": "0" * 64})
    assert order_faults([receipts[1], fork]) == ["receipt 3 does not follow receipt 2"]
    assert chain_faults([receipts[0], receipts[1], fork, receipts[3]], head)
