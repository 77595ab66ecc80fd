"""The book's file: transactions, entries, sessions, many at once."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blackbox_ti.budget import Cost
from blackbox_ti.errors import LedgerError
from blackbox_ti.ledger_store import Store

CAPS = {"forwards": 1, "queries": None, "price_micros": None, "wall_seconds": None}


def store(folder: Path, now: float = 100.0) -> Store:
    """Return a store whose clock stands still."""
    return Store(folder / "ledger.sqlite", create=True, clock=lambda: now)


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    """An error inside a transaction takes back every row and every sum."""
    book = store(tmp_path)
    with contextlib.suppress(RuntimeError), book.transaction():
        book.append("caps", CAPS)
        book.commit_cost(Cost(1, 1, 1))
        raise RuntimeError
    assert book.one("SELECT count(*) FROM caps") == (0,)
    assert book.one("SELECT forwards FROM head") == (0,)
    with book.transaction():
        book.append("caps", CAPS)
    assert book.one("SELECT count(*) FROM sessions") == (1,)
    assert book.faults() == []
    book.close()


def test_entries_count_through_all_tables(tmp_path: Path) -> None:
    """Rows of different tables share one sequence; the session's row comes first."""
    book = store(tmp_path)
    with book.transaction():
        entries = [book.append("caps", CAPS), book.append("models", {"fingerprint": "f", "card": "{}"})]
    assert entries == [2, 3]
    assert book.all("SELECT entry, session FROM caps UNION SELECT entry, session FROM models") == [(2, 1), (3, 1)]
    book.close()


def test_a_book_of_another_version_is_refused(tmp_path: Path) -> None:
    """A database that another program or version made is not written to."""
    path = tmp_path / "ledger.sqlite"
    store(tmp_path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LedgerError, match="version"):
        store(tmp_path)


def test_reading_alone_leaves_no_session(tmp_path: Path) -> None:
    """A session is recorded with the first row it writes."""
    book = store(tmp_path)
    assert book.seconds_of_sessions() == 0.0
    assert book.one("SELECT count(*) FROM sessions") == (0,)
    book.close()


def test_database_errors_are_ledger_errors(tmp_path: Path) -> None:
    """Foreign exceptions do not get out."""
    book = store(tmp_path)
    with pytest.raises(LedgerError, match="cannot be used"):
        book.one("SELECT nothing FROM nowhere")
    book.close()
    with pytest.raises(LedgerError):
        book.one("SELECT 1")
    with pytest.raises(LedgerError):
        Store(tmp_path / "no" / "such" / "folder", create=True, clock=lambda: 0.0)


def test_a_new_book_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    """Nobody is turned away because another is just making the file."""
    for i in range(10):
        path = tmp_path / f"{i}.sqlite"
        with ThreadPoolExecutor(8) as pool:
            stores = list(pool.map(lambda _, p=path: Store(p, create=True, clock=time.time), range(8)))
        for store in stores:
            store.close()
