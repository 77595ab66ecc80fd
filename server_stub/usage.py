"""What was charged, by account, day and model, from the receipts."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from server_stub.database import Books, accounts, receipts

__all__ = ["UsageRow", "usage_table"]


@dataclass(frozen=True)
class UsageRow:
    """The charges of an account for a model on a UTC day; money in millionths."""

    account: str
    day: str
    model: str
    requests: int
    forwards: int
    queries: int
    price_micros: int


def usage_table(books: Books) -> list[UsageRow]:
    """Return the charges by account, day and model, in that order."""
    groups = (accounts.c.name, receipts.c.day, receipts.c.model)
    sums = [sa.cast(sa.func.sum(c), sa.BigInteger) for c in _AMOUNTS]
    query = sa.select(*groups, sa.func.count(), *sums).join(accounts).group_by(*groups).order_by(*groups)
    with books.read() as connection:
        return [UsageRow(*row) for row in connection.execute(query)]


_AMOUNTS = (receipts.c.forwards, receipts.c.queries, receipts.c.price_micros)
