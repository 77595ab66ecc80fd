"""Tests of what was charged, by account, day and model."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from server_stub.idempotency import Reservation
from server_stub.receipts import page
from server_stub.spending import Amount, spent
from server_stub.usage import usage_table
from tests.server_stub.books import Clock, OneServer, order, reply

CHARGES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 2)), max_size=8)


@settings(max_examples=20)
@given(charges=CHARGES)
def test_the_table_the_receipts_and_the_counters_agree(charges: list[tuple[int, int, int]]) -> None:
    """Whatever was charged on whichever days, the table's sums are the receipts' and the account's own."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        server = OneServer(Path(folder), clock)
        account = server.accounts.ensure("ada")
        for index, (forwards, queries, days) in enumerate(charges):
            clock.now += days * 86_400
            held = server.operations.begin(order(account, str(index)), Amount(forwards, queries, 2 * forwards))
            assert isinstance(held, Reservation)
            server.operations.settle(held, held.amount, reply)
        rows = usage_table(server.books)
        signed = page(server.books, account, after=0, limit=100).receipts
        total = spent(server.books, account)
        server.die()
    assert [row.day for row in rows] == sorted({receipt.issued_at[:10] for receipt in signed})
    assert sum(row.requests for row in rows) == len(signed) == len(charges)
    for name in ("forwards", "queries", "price_micros"):
        sums = {sum(getattr(entry, name) for entry in entries) for entries in (rows, signed)}
        assert sums == {getattr(total, name)}
