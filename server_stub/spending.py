"""What accounts spend and may spend: counters per span of time, changed only inside a caller's transaction.

For every span: charged + held never exceeds the cap. A span is `total`, a day `YYYY-MM-DD` or a month `YYYY-MM`,
in UTC; a reservation counts in the spans of the moment it was made, also if it is charged in the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from server_stub.database import Books, budgets, locked_account, spending

__all__ = [
    "Amount",
    "Budget",
    "BudgetSpentError",
    "Period",
    "charge",
    "hold",
    "left",
    "left_in",
    "release",
    "set_budget",
    "spent",
    "spent_in",
]


class Period(StrEnum):
    """What a budget is per."""

    TOTAL = "total"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True)
class Amount:
    """Something to pay: denoiser passes, queries, and money in millionths."""

    forwards: int = 0
    queries: int = 0
    price_micros: int = 0


@dataclass(frozen=True)
class Budget:
    """Caps of an account for a period; None is no cap."""

    max_forwards: int | None = None
    max_queries: int | None = None
    max_price_micros: int | None = None


class BudgetSpentError(Exception):
    """A reservation would go over a cap; `period` says which."""

    def __init__(self, period: Period) -> None:
        super().__init__(f"the budget per {period} does not allow it")
        self.period = period


def set_budget(books: Books, account_id: int, period: Period, budget: Budget) -> None:
    """Replace the caps of an account for a period."""
    values = {"account_id": account_id, "period": period.value, **budget.__dict__}
    with books.write() as connection:
        locked_account(connection, account_id)
        mine = (budgets.c.account_id == account_id) & (budgets.c.period == period.value)
        connection.execute(sa.delete(budgets).where(mine))
        connection.execute(sa.insert(budgets).values(values))


def hold(connection: sa.Connection, account_id: int, day: str, amount: Amount) -> None:
    """Reserve `amount` in all spans of `day`.

    Raises:
        BudgetSpentError: a cap does not allow it; the caller's transaction has to end without effect.
    """
    caps, counters = _caps(connection, account_id), _counters(connection, account_id, day)
    for period, span in _spans(day):
        cap = caps.get(period)
        if cap is not None and any(
            most is not None and used + more > most
            for most, used, more in zip(astuple(cap), _taken(counters.get(span)), astuple(amount), strict=True)
        ):
            raise BudgetSpentError(period)
    new = [{"account_id": account_id, "span": span} for _, span in _spans(day) if span not in counters]
    if new:
        connection.execute(sa.insert(spending), new)
    _add(connection, account_id, day, Amount(), amount)


def release(connection: sa.Connection, account_id: int, day: str, held: Amount) -> None:
    """Give back what was reserved on `day`."""
    charge(connection, account_id, day, held, Amount())


def charge(connection: sa.Connection, account_id: int, day: str, held: Amount, amount: Amount) -> None:
    """Turn what was reserved on `day` into a charge of `amount`, which is no more than was held."""
    assert all(a <= h for a, h in zip(astuple(amount), astuple(held), strict=True)), "charged more than held"
    less = Amount(-held.forwards, -held.queries, -held.price_micros)
    _add(connection, account_id, day, amount, less)


def spent(books: Books, account_id: int) -> Amount:
    """Return what the account was charged in all."""
    with books.read() as connection:
        return spent_in(connection, account_id)


def spent_in(connection: sa.Connection, account_id: int) -> Amount:
    """Return what the account was charged in all, as this transaction sees it."""
    mine = (spending.c.account_id == account_id) & (spending.c.span == Period.TOTAL.value)
    row = connection.execute(sa.select(spending).where(mine)).first()
    return Amount(row.forwards, row.queries, row.price_micros) if row is not None else Amount()


def left(books: Books, account_id: int, day: str) -> Budget:
    """Return what the tightest caps leave on `day` after charges and reservations; None is no cap."""
    with books.read() as connection:
        return left_in(connection, account_id, day)


def left_in(connection: sa.Connection, account_id: int, day: str) -> Budget:
    """Return what `left` does, as this transaction sees it."""
    lowest: list[int | None] = [None, None, None]
    caps, counters = _caps(connection, account_id), _counters(connection, account_id, day)
    for period, span in _spans(day):
        cap = caps.get(period)
        if cap is not None:
            for index, value in enumerate(_remaining(cap, _taken(counters.get(span)))):
                known = lowest[index]
                lowest[index] = value if known is None or (value is not None and value < known) else known
    return Budget(*lowest)


def _remaining(cap: Budget, taken: tuple[int, ...]) -> tuple[int | None, ...]:
    return tuple(None if most is None else max(most - used, 0) for most, used in zip(astuple(cap), taken, strict=True))


def _taken(row: sa.Row[Any] | None) -> tuple[int, ...]:
    """Forwards, queries and money charged and held; nothing where there is no counter yet."""
    if row is None:
        return (0, 0, 0)
    return (
        row.forwards + row.held_forwards,
        row.queries + row.held_queries,
        row.price_micros + row.held_price_micros,
    )


def _spans(day: str) -> Iterator[tuple[Period, str]]:
    yield Period.TOTAL, Period.TOTAL.value
    yield Period.DAY, day
    yield Period.MONTH, day[:7]


def _caps(connection: sa.Connection, account_id: int) -> dict[Period, Budget]:
    rows = connection.execute(sa.select(budgets).where(budgets.c.account_id == account_id))
    return {Period(r.period): Budget(r.max_forwards, r.max_queries, r.max_price_micros) for r in rows}


def _mine(account_id: int, day: str) -> sa.ColumnElement[bool]:
    return (spending.c.account_id == account_id) & spending.c.span.in_([span for _, span in _spans(day)])


def _counters(connection: sa.Connection, account_id: int, day: str) -> dict[str, sa.Row[Any]]:
    """The counters of the spans of `day` by span, of those that have one."""
    return {row.span: row for row in connection.execute(sa.select(spending).where(_mine(account_id, day)))}


def _add(connection: sa.Connection, account_id: int, day: str, charged: Amount, held: Amount) -> None:
    change = sa.update(spending).where(_mine(account_id, day))
    connection.execute(
        change.values(
            forwards=spending.c.forwards + charged.forwards,
            queries=spending.c.queries + charged.queries,
            price_micros=spending.c.price_micros + charged.price_micros,
            held_forwards=spending.c.held_forwards + held.forwards,
            held_queries=spending.c.held_queries + held.queries,
            held_price_micros=spending.c.held_price_micros + held.price_micros,
        )
    )
