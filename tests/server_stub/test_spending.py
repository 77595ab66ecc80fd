"""Tests of budgets: what may be spent, and what is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server_stub import spending
from server_stub.accounts import Accounts
from server_stub.database import Books
from server_stub.spending import Amount, Budget, BudgetSpentError, Period

DAY = "2026-03-31"


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    """Yield books with one account, whose id is 1."""
    made = Books(f"sqlite:///{tmp_path / 'books.sqlite'}")
    assert Accounts(made).ensure("ada") == 1
    yield made
    made.close()


def hold(books: Books, amount: Amount, day: str = DAY) -> None:
    """Reserve in a transaction of its own."""
    with books.write() as connection:
        spending.hold(connection, 1, day, amount)


@pytest.mark.parametrize("unit", ["forwards", "queries", "price_micros"])
@pytest.mark.parametrize("period", list(Period))
def test_a_cap_is_reached_and_not_passed(books: Books, unit: str, period: Period) -> None:
    """Exactly the cap may be reserved, and then not one more, for each unit and period."""
    spending.set_budget(books, 1, period, Budget(**{f"max_{unit}": 10}))
    hold(books, Amount(**{unit: 4}))
    hold(books, Amount(**{unit: 6}))
    with pytest.raises(BudgetSpentError) as caught:
        hold(books, Amount(**{unit: 1}))
    assert caught.value.period is period
    hold(books, Amount())


def test_a_refused_reservation_changes_nothing(books: Books) -> None:
    """A refusal by one period leaves no trace in the others."""
    spending.set_budget(books, 1, Period.MONTH, Budget(max_forwards=5))
    spending.set_budget(books, 1, Period.TOTAL, Budget(max_forwards=100))
    with pytest.raises(BudgetSpentError):
        hold(books, Amount(6))
    assert spending.left(books, 1, DAY).max_forwards == 5


def test_a_new_day_and_month_begin_at_nought(books: Books) -> None:
    """What was spent in one day or month does not count in the next; the total goes on."""
    spending.set_budget(books, 1, Period.DAY, Budget(max_forwards=5))
    spending.set_budget(books, 1, Period.MONTH, Budget(max_forwards=8))
    hold(books, Amount(5), "2026-03-30")
    with pytest.raises(BudgetSpentError) as caught:
        hold(books, Amount(4), "2026-03-31")
    assert caught.value.period is Period.MONTH
    hold(books, Amount(5), "2026-04-01")


def test_what_is_left_is_the_tightest_cap_less_what_is_taken(books: Books) -> None:
    """Charges and reservations both count, each unit has its own tightest period, and no cap is None."""
    spending.set_budget(books, 1, Period.TOTAL, Budget(max_forwards=100, max_queries=3))
    spending.set_budget(books, 1, Period.DAY, Budget(max_forwards=20, max_queries=50))
    hold(books, Amount(8, 1))
    with books.write() as connection:
        spending.charge(connection, 1, DAY, Amount(5, 1), Amount(2, 1))
    assert spending.left(books, 1, DAY) == Budget(15, 2, None)
    assert spending.left(books, 1, "2026-04-01") == Budget(20, 2, None)
    assert spending.spent(books, 1) == Amount(2, 1)


def test_a_cap_below_what_is_spent_leaves_nothing(books: Books) -> None:
    """Lowering a budget under what is spent stops further spending; raising it lets it go on."""
    hold(books, Amount(10))
    spending.set_budget(books, 1, Period.TOTAL, Budget(max_forwards=4))
    assert spending.left(books, 1, DAY).max_forwards == 0
    with pytest.raises(BudgetSpentError):
        hold(books, Amount(1))
    spending.set_budget(books, 1, Period.TOTAL, Budget(max_forwards=11))
    hold(books, Amount(1))
