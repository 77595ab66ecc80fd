"""The ledger's tables, and the chain of hashes through all their rows.

Rows are only ever added. Every row of every table has the next `entry` number, and its `hash` is the SHA-256 of the
canonical JSON of [hash of the entry before, table, entry, columns], bytes standing for themselves by their own
SHA-256. One changed row is found and named by its own hash. The one row of `head` is a cache (last entry, its hash,
the sums committed) that verification recomputes. The chain holds no secret: it finds accidents and careless edits;
whoever rewrites every row after the one they change is found out by the host's signed receipts, not by the chain.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, Final

from blackbox_ti.budget import Cost

__all__ = ["APPLICATION_ID", "GENESIS", "SCHEMA_VERSION", "TABLES", "committed", "create", "find_faults", "row_hash"]

APPLICATION_ID: Final = 0x42425449
SCHEMA_VERSION: Final = 2
GENESIS: Final = "0" * 64

_COST: Final = {"forwards": "INTEGER NOT NULL", "queries": "INTEGER NOT NULL", "price_micros": "INTEGER NOT NULL"}

TABLES: Final[dict[str, dict[str, str]]] = {
    "sessions": {"started_at": "REAL NOT NULL"},
    "run": {
        "run_id": "TEXT NOT NULL",
        "endpoint": "TEXT NOT NULL",
        "settings": "TEXT NOT NULL",
        "pictures": "TEXT NOT NULL",
    },
    "caps": {"forwards": "INTEGER", "queries": "INTEGER", "price_micros": "INTEGER", "wall_seconds": "REAL"},
    "models": {"fingerprint": "TEXT NOT NULL", "card": "TEXT NOT NULL"},
    "guarantees": {
        "idempotency": "INTEGER NOT NULL",
        "exact_cost": "INTEGER NOT NULL",
        "receipts": "INTEGER NOT NULL",
    },
    "concepts": {"concept": "TEXT NOT NULL", "pictures": "TEXT NOT NULL"},
    "operations": {
        "name": "TEXT NOT NULL UNIQUE",
        "label": "TEXT NOT NULL",
        "route": "TEXT NOT NULL",
        "request_sha256": "TEXT NOT NULL",
        "parts": "TEXT NOT NULL",
    },
    "states": {
        "operation": "INTEGER NOT NULL REFERENCES operations (entry)",
        "state": "TEXT NOT NULL",
        "idempotency_key": "TEXT NOT NULL",
        **_COST,
        "reply": "BLOB",
        "receipt": "TEXT",
        "reason": "TEXT",
    },
    "attempts": {
        "number": "INTEGER NOT NULL",
        "idempotency_key": "TEXT",
        "method": "TEXT NOT NULL",
        "path": "TEXT NOT NULL",
        "started_at": "REAL NOT NULL",
        "latency": "REAL NOT NULL",
        "status": "INTEGER",
        "error": "TEXT",
        "effect": "TEXT NOT NULL",
        "bytes_up": "INTEGER NOT NULL",
        "bytes_down": "INTEGER NOT NULL",
        "request_id": "TEXT",
        "retry_after": "REAL",
        "replayed": "INTEGER NOT NULL",
    },
}

_INDEXES: Final = (
    "CREATE INDEX states_of_operation ON states (operation)",
    "CREATE INDEX attempts_of_key ON attempts (idempotency_key)",
)


def create(connection: sqlite3.Connection) -> None:
    """Make the tables of an empty database, inside the caller's transaction."""
    for table, columns in TABLES.items():
        own = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        connection.execute(
            f"CREATE TABLE {table} (entry INTEGER PRIMARY KEY, session INTEGER NOT NULL, at REAL NOT NULL, {own}, "
            "hash TEXT NOT NULL)"
        )
    totals = ", ".join(f"{name} {kind}" for name, kind in _COST.items())
    connection.execute(
        f"CREATE TABLE head (id INTEGER PRIMARY KEY, entry INTEGER NOT NULL, hash TEXT NOT NULL, {totals})"
    )
    connection.execute("INSERT INTO head VALUES (1, 0, ?, 0, 0, 0)", (GENESIS,))
    for index in _INDEXES:
        connection.execute(index)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def row_hash(previous: str, table: str, entry: int, columns: Mapping[str, Any]) -> str:
    """Return the hash of a row, `columns` being all but `entry` and `hash`."""
    plain = {k: {"sha256": hashlib.sha256(v).hexdigest()} if isinstance(v, bytes) else v for k, v in columns.items()}
    content = json.dumps([previous, table, entry, plain], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def committed(connection: sqlite3.Connection) -> Cost:
    """Return what is spent or promised: the sum over operations of what their last state commits."""
    row = connection.execute(
        "SELECT coalesce(sum(forwards), 0), coalesce(sum(queries), 0), coalesce(sum(price_micros), 0) FROM states "
        "WHERE entry IN (SELECT max(entry) FROM states GROUP BY operation)"
    ).fetchone()
    return Cost(*row)


def find_faults(connection: sqlite3.Connection) -> list[str]:
    """Return what is wrong with the book, each fault naming its row, or the database's own complaint."""
    try:
        complaints = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
        faults = [f"the database is damaged: {text}" for text in complaints if text != "ok"]
        faults += list(_chain_faults(connection))
    except (sqlite3.Error, OverflowError) as error:
        faults = [f"the database is damaged: {error}"]
    return faults


def _rows(connection: sqlite3.Connection, table: str) -> Iterator[tuple[int, str, dict[str, Any], str]]:
    """Yield (entry, table, columns, hash) in order."""
    names = ["session", "at", *TABLES[table]]
    # The names are this module's own, so the statement is fixed text.
    query = f"SELECT entry, hash, {', '.join(names)} FROM {table} ORDER BY entry"  # noqa: S608
    for entry, told, *values in connection.execute(query):
        yield entry, table, dict(zip(names, values, strict=True)), told


def _chain_faults(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield the faults of the chain and of the head."""
    previous, expected = GENESIS, 1
    for entry, table, columns, told in heapq.merge(*(_rows(connection, t) for t in TABLES), key=lambda row: row[0]):
        if entry != expected:
            yield f"entries {expected} to {entry - 1} are missing or out of order before {table} row {entry}"
        elif row_hash(previous, table, entry, columns) != told:
            yield f"{table} row {entry} was changed, or the hash of the row before it"
        previous, expected = told, entry + 1
    yield from _head_faults(connection, expected - 1, previous)


def _head_faults(connection: sqlite3.Connection, entry: int, told: str) -> Iterator[str]:
    rows = connection.execute("SELECT id, entry, hash, forwards, queries, price_micros FROM head").fetchall()
    total = committed(connection)
    expected = [(1, entry, told, total.forwards, total.queries, total.price_micros)]
    if rows != expected:
        yield f"head row 1 was changed: it does not match the rows up to entry {entry}"
