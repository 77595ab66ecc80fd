"""The ledger's file: opening it, immediate transactions, and adding rows to the chain."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any, Final

from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_fixed

from blackbox_ti import ledger_schema
from blackbox_ti.budget import Cost
from blackbox_ti.errors import LedgerError
from blackbox_ti.ledger_schema import APPLICATION_ID, SCHEMA_VERSION, TABLES, row_hash

__all__ = ["Store"]

_BUSY_SECONDS: Final = 60.0
_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
)


def _patiently(connection: sqlite3.Connection, pragma: str) -> None:
    """Run a pragma; changing the journal's mode does not heed SQLite's own time-out while another process opens."""
    locked = retry_if_exception_message(match=".*locked.*")
    for attempt in Retrying(retry=locked, stop=stop_after_delay(_BUSY_SECONDS), wait=wait_fixed(0.02), reraise=True):
        with attempt:
            connection.execute(pragma)


class Store:
    """An open ledger file; one connection, one lock, so any thread may use it.

    Args:
        path: the file.
        create: whether to make the file where there is none.
        clock: seconds since the epoch, for the rows' `at`.

    Raises:
        LedgerError: there is no such file, or it is not a ledger this version can use.
    """

    def __init__(self, path: Path, *, create: bool, clock: Callable[[], float]) -> None:
        self.path = path
        self.opened_at = clock()
        self._clock = clock
        self._lock = threading.RLock()
        self._session: int | None = None
        if not create and not path.is_file():
            raise LedgerError(f"there is no ledger at {path}; give the folder of a run")
        with self._errors():
            self._connection = self._open(create=create)

    def _open(self, *, create: bool) -> sqlite3.Connection:
        if create:
            # Replies are the user's: nobody else on the machine need read them.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            for pragma in _PRAGMAS:
                _patiently(connection, pragma)
            self._check_version(connection, create=create)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_version(self, connection: sqlite3.Connection, *, create: bool) -> None:
        """Make the tables of a new file; refuse a file of another kind or version."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            if create and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                ledger_schema.create(connection)
            found = tuple(
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
            )
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        if found != (APPLICATION_ID, SCHEMA_VERSION):
            raise LedgerError(f"{self.path} is not a ledger this version can read; use the version that wrote it")

    def close(self) -> None:
        """Close the file; what was committed stays."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the book alone, against threads and processes; all of it is written or none."""
        with self._lock, self._errors():
            session = self._session
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                self._session = session
                raise
            self._connection.execute("COMMIT")

    def append(self, table: str, columns: Mapping[str, Any]) -> int:
        """Add a row, inside a transaction, and return its entry number."""
        if table != "sessions" and self._session is None:
            self.append("sessions", {"started_at": self.opened_at})
        before = self.one("SELECT entry, hash FROM head")
        assert before is not None
        entry = int(before[0]) + 1
        session = self._session if self._session is not None else entry
        row = {"session": session, "at": self._clock(), **columns}
        told = row_hash(before[1], table, entry, row)
        names, marks = ", ".join(row), ", ".join("?" * (len(row) + 2))
        assert set(columns) == set(TABLES[table])
        # Table and column names are the schema's own; values are bound.
        statement = f"INSERT INTO {table} (entry, hash, {names}) VALUES ({marks})"  # noqa: S608
        self._connection.execute(statement, (entry, told, *row.values()))
        self._connection.execute("UPDATE head SET entry = ?, hash = ?", (entry, told))
        self._session = session
        return entry

    def commit_cost(self, change: Cost) -> None:
        """Add `change`, which may be negative, to the sums in the head, inside a transaction."""
        self._connection.execute(
            "UPDATE head SET forwards = forwards + ?, queries = queries + ?, price_micros = price_micros + ?",
            astuple(change),
        )

    def one(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        """Return the first row of a query, or None."""
        with self._lock, self._errors():
            row: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
            return row

    def all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._lock, self._errors():
            return self._connection.execute(query, values).fetchall()

    def faults(self) -> list[str]:
        """Return what is wrong with the book, each fault naming its row."""
        with self._lock:
            return ledger_schema.find_faults(self._connection)

    def seconds_of_sessions(self) -> float:
        """Return how long the sessions in the book lasted, each from its opening to its last row, together."""
        spans = " UNION ALL ".join(f"SELECT session, at FROM {table}" for table in TABLES)  # noqa: S608
        query = (
            "SELECT coalesce(sum(last - started_at), 0.0) FROM sessions JOIN "  # noqa: S608
            f"(SELECT session AS id, max(at) AS last FROM ({spans}) GROUP BY id) ON entry = id WHERE last > started_at"
        )
        row = self.one(query)
        assert row is not None
        return float(row[0])

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(f"the ledger {self.path} cannot be used: {error}") from error
