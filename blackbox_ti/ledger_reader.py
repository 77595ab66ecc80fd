"""What a run's book holds, as records; nothing here writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from types import TracebackType
from typing import Self

from blackbox_ti.attempt import Attempt
from blackbox_ti.budget import Caps, Cost
from blackbox_ti.endpoint import Guarantees
from blackbox_ti.ledger_records import OPERATIONS_QUERY, Operation, operation_of
from blackbox_ti.ledger_store import Store
from blackbox_ti.wire import ModelCard

__all__ = ["LedgerReader"]


class LedgerReader:
    """An open book to read in, safe from many threads; what others write to the file is seen at once.

    Args:
        store: the open file, which is closed with this.
        clock: seconds since the epoch.

    Raises:
        LedgerError: the book cannot be read.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self.path = store.path
        self._clock = clock
        self._store = store
        self._wall_before = store.seconds_of_sessions()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was written stays written."""
        self._store.close()

    def effects_of(self, idempotency_key: str) -> list[str]:
        """Return the effect of every attempt under a key, in order."""
        rows = self._store.all("SELECT effect FROM attempts WHERE idempotency_key = ? ORDER BY entry", idempotency_key)
        return [row[0] for row in rows]

    def operations(self) -> list[Operation]:
        """Return all operations in the order they were first reserved, without their replies."""
        return [
            operation_of(row) for row in self._store.all(OPERATIONS_QUERY.format(reply="NULL") + " ORDER BY o.entry")
        ]

    def attempts(self) -> list[tuple[int, Attempt]]:
        """Return every try on the wire with its entry number, in order."""
        names = [field.name for field in fields(Attempt)]
        rows = self._store.all(f"SELECT entry, {', '.join(names)} FROM attempts ORDER BY entry")  # noqa: S608
        return [
            (entry, Attempt(**{**dict(zip(names, row, strict=True)), "replayed": bool(row[-1])}))
            for entry, *row in rows
        ]

    def keys(self) -> dict[str, str]:
        """Return the name of the operation each idempotency key was drawn for; once refused, it has several."""
        query = "SELECT DISTINCT s.idempotency_key, o.name FROM states s JOIN operations o ON s.operation = o.entry"
        return dict(self._store.all(query))

    def idle_seconds(self, operation: Operation) -> float:
        """Return how long ago the operation last changed, in seconds."""
        row = self._store.one("SELECT at FROM states WHERE entry = ?", operation.last)
        return 0.0 if row is None else max(0.0, self._clock() - row[0])

    def seconds_since_first_sent(self, operation: Operation) -> float:
        """Return how long ago the operation was first reserved under its key, in seconds."""
        row = self._store.one("SELECT min(at) FROM states WHERE idempotency_key = ?", operation.idempotency_key)
        return 0.0 if row is None else max(0.0, self._clock() - row[0])

    def model_card(self) -> ModelCard | None:
        """Return the model card recorded last, or None."""
        row = self._store.one("SELECT card FROM models ORDER BY entry DESC LIMIT 1")
        return None if row is None else ModelCard.model_validate_json(row[0])

    def guarantees(self) -> Guarantees:
        """Return what the host guarantees as far as is recorded, else all there is."""
        return self.recorded_guarantees() or Guarantees()

    def recorded_guarantees(self) -> Guarantees | None:
        """Return what was recorded last of the host's guarantees, or None."""
        row = self._store.one("SELECT idempotency, exact_cost, receipts FROM guarantees ORDER BY entry DESC LIMIT 1")
        if row is None:
            return None
        return Guarantees(idempotency=bool(row[0]), exact_cost=bool(row[1]), receipts=bool(row[2]))

    def endpoint(self) -> str | None:
        """Return the address the run began with, or None."""
        row = self._store.one("SELECT endpoint FROM run")
        return None if row is None else str(row[0])

    def find(self, name: str) -> Operation | None:
        """Return an operation by its name, with its reply."""
        row = self._store.one(OPERATIONS_QUERY.format(reply="s.reply") + " WHERE o.name = ?", name)
        return None if row is None else operation_of(row)

    def caps(self) -> Caps:
        """Return the caps in force."""
        row = self._store.one(
            "SELECT forwards, queries, price_micros, wall_seconds FROM caps ORDER BY entry DESC LIMIT 1"
        )
        if row is None:
            return Caps()
        return Caps(forwards=row[0], queries=row[1], price_micros=row[2], wall_seconds=row[3])

    def committed(self) -> Cost:
        """Return what is spent or reserved."""
        row = self._store.one("SELECT forwards, queries, price_micros FROM head")
        assert row is not None
        return Cost(*row)

    def wall_seconds(self) -> float:
        """Return the wall time of the sessions before this one and of this one so far, in seconds."""
        return self._wall_before + max(0.0, self._clock() - self._store.opened_at)

    def faults(self) -> list[str]:
        """Return what is wrong with the book, each fault naming its row; empty for a book that verifies."""
        return self._store.faults()
