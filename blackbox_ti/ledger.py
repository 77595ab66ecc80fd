"""The run's book: one SQLite file, written before the wire is touched.

A charged call is an operation with a name that is the same whenever the run is repeated. It is *reserved* (its exact
cost counts against the caps from then on), then sent, then *settled* with its reply, or *refused* where the host
certainly did not charge it, or *unknown*, which keeps the reservation until a retry under the same idempotency key, or
the host's own book, settles it. Any number of threads and processes may share a book: every change is one immediate
transaction, so together they never go over a cap.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from blackbox_ti.attempt import Attempt
from blackbox_ti.budget import Caps, Cost, check_caps
from blackbox_ti.endpoint import Guarantees
from blackbox_ti.errors import LedgerError, ResumeError
from blackbox_ti.ledger_records import (
    OPERATIONS_QUERY,
    Operation,
    RunIdentity,
    State,
    canonical,
    check_same_request,
    check_same_run,
    digest,
    operation_of,
)
from blackbox_ti.ledger_store import Store
from blackbox_ti.wire import ModelCard

__all__ = ["Ledger", "Operation", "RunIdentity", "State"]


class Ledger:
    """An open book, safe from many threads.

    Args:
        path: the file, made unless `create` is false.
        create: whether to make the file where there is none.
        clock: seconds since the epoch.

    Raises:
        LedgerError: there is no such book, or the file is not one this version can use.
    """

    def __init__(self, path: Path, *, create: bool = True, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._store = Store(path, create=create, clock=clock)
        try:
            self._wall_before = self._store.seconds_of_sessions()
        except LedgerError:
            self._store.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was written stays written."""
        self._store.close()

    def begin(self, identity: RunIdentity, caps: Caps) -> bool:
        """Open or go on with a run and put `caps` in force; return whether the run was there before.

        Raises:
            ResumeError: the book is another run's; the message names every difference.
        """
        told = {
            "endpoint": identity.endpoint,
            "settings": canonical(identity.settings),
            "pictures": canonical(list(identity.pictures)),
        }
        with self._store.transaction():
            row = self._store.one("SELECT endpoint, settings, pictures FROM run")
            if row is None:
                self._store.append("run", {"run_id": uuid.uuid4().hex, **told})
            else:
                check_same_run(dict(zip(told, row, strict=True)), told)
            if caps != self.caps():
                self._store.append("caps", asdict(caps))
        return row is not None

    def record_model(self, fingerprint: str, card: str) -> None:
        """Record the model card (JSON).

        Raises:
            ResumeError: the run began on a model with another fingerprint.
        """
        with self._store.transaction():
            row = self._store.one("SELECT fingerprint, card FROM models ORDER BY entry DESC LIMIT 1")
            if row is not None and row[0] != fingerprint:
                raise ResumeError(
                    f"the endpoint now serves another model (fingerprint {fingerprint[:12]}, before {row[0][:12]}); "
                    "begin a new run in another folder"
                )
            if row is None or row[1] != card:
                self._store.append("models", {"fingerprint": fingerprint, "card": card})

    def record_guarantees(self, guarantees: Guarantees) -> None:
        """Record what the host guarantees."""
        with self._store.transaction():
            if guarantees != self._guarantees():
                self._store.append("guarantees", {name: int(held) for name, held in asdict(guarantees).items()})

    def record_concept(self, concept: str, pictures: Sequence[str]) -> None:
        """Record the id the host gave to pictures (SHA-256 each).

        Raises:
            ResumeError: the host gave the same pictures another id before, or the run has other pictures.
        """
        told = canonical(list(pictures))
        with self._store.transaction():
            run = self._store.one("SELECT pictures FROM run")
            if run is not None and run[0] not in {told, "[]"}:
                raise ResumeError("the pictures are not those the run began with; begin a new run in another folder")
            row = self._store.one("SELECT concept FROM concepts WHERE pictures = ?", told)
            if row is None:
                self._store.append("concepts", {"concept": concept, "pictures": told})
            elif row[0] != concept:
                raise ResumeError(
                    "the host knows the pictures by another id than before: the account or the model changed; "
                    "use the same API key, or begin a new run in another folder"
                )

    def reserve(self, *, name: str, label: str, route: str, request: Mapping[str, Any], cost: Cost) -> Operation:
        """Return the operation `name`: reserved now, or as the book has it from before.

        A settled operation comes with its reply and needs no sending; a reserved or unknown one is to be sent again
        under its key.

        Raises:
            BudgetSpentError: a cap does not allow it; nothing was written.
            ResumeError: the operation is there with another request; the message says which parts differ.
        """
        parts = {field: digest(value) for field, value in request.items()}
        sha256 = hashlib.sha256(canonical(request).encode()).hexdigest()
        with self._store.transaction():
            found = self._find(name)
            if found is not None:
                check_same_request(found, sha256, parts)
                if found.state != "refused":
                    return self._take_over(found)
            check_caps(self.caps(), self.committed(), self.wall_seconds(), cost)
            columns = {"name": name, "label": label, "route": route, "request_sha256": sha256}
            entry = found.entry if found else self._store.append("operations", {**columns, "parts": canonical(parts)})
            self._change(entry, "reserved", self._new_key(name), cost, before=Cost())
            reserved = self._find(name)
        assert reserved is not None
        return replace(reserved, fresh=True)

    def settle(self, operation: Operation, *, charged: Cost, reply: bytes | None, receipt: str | None) -> None:
        """Write down what the host charged and answered; an operation that has its reply already stays as it is."""
        with self._store.transaction():
            now = self._state_of(operation)
            if now.state != "settled" or now.reply is None:
                key = operation.idempotency_key
                self._change(now.entry, "settled", key, charged, before=now.cost, reply=reply, receipt=receipt)

    def refuse(self, operation: Operation, reason: str) -> None:
        """Free the reservation of an operation the host certainly did not charge, unless another took it over."""
        with self._store.transaction():
            now = self._state_of(operation)
            if now.last == operation.last and now.state in {"reserved", "unknown"}:
                self._change(now.entry, "refused", now.idempotency_key, Cost(), before=now.cost, reason=reason)

    def leave_unknown(self, operation: Operation, reason: str) -> None:
        """Mark an operation whose outcome is not known; its cost stays reserved."""
        with self._store.transaction():
            now = self._state_of(operation)
            if now.state == "reserved":
                self._change(now.entry, "unknown", now.idempotency_key, now.cost, before=now.cost, reason=reason)

    def record_attempt(self, attempt: Attempt) -> None:
        """Record one try on the wire; it belongs to the operation that has its key, or to none."""
        with self._store.transaction():
            self._store.append("attempts", {**asdict(attempt), "replayed": int(attempt.replayed)})

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
        return self._guarantees() or Guarantees()

    def endpoint(self) -> str | None:
        """Return the address the run began with, or None."""
        row = self._store.one("SELECT endpoint FROM run")
        return None if row is None else str(row[0])

    def find(self, name: str) -> Operation | None:
        """Return an operation by its name, with its reply."""
        return self._find(name)

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

    def _guarantees(self) -> Guarantees | None:
        row = self._store.one("SELECT idempotency, exact_cost, receipts FROM guarantees ORDER BY entry DESC LIMIT 1")
        if row is None:
            return None
        return Guarantees(idempotency=bool(row[0]), exact_cost=bool(row[1]), receipts=bool(row[2]))

    def _find(self, name: str) -> Operation | None:
        row = self._store.one(OPERATIONS_QUERY.format(reply="s.reply") + " WHERE o.name = ?", name)
        return None if row is None else operation_of(row)

    def _take_over(self, found: Operation) -> Operation:
        """Return an operation from before.

        One that is not settled is reserved anew, so that its first holder, if still at work, can no longer free it.
        """
        if found.state == "settled":
            return found
        self._change(found.entry, "reserved", found.idempotency_key, found.cost, before=found.cost)
        return self._state_of(found)

    def _state_of(self, operation: Operation) -> Operation:
        """Return the operation as the book has it now: another thread or process may have been there."""
        now = self._find(operation.name)
        assert now is not None
        return now

    def _change(
        self,
        operation: int,
        state: State,
        key: str,
        cost: Cost,
        *,
        before: Cost,
        reply: bytes | None = None,
        receipt: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Add a state to an operation and move the sums from what it committed `before` to `cost`."""
        columns = {"operation": operation, "state": state, "idempotency_key": key, **asdict(cost)}
        self._store.append("states", {**columns, "reply": reply, "receipt": receipt, "reason": reason})
        self._store.commit_cost(cost - before)

    def _new_key(self, name: str) -> str:
        """Return the idempotency key of the next reservation of `name`: the run's own, another after a refusal."""
        run = self._store.one("SELECT run_id FROM run")
        if run is None:
            raise LedgerError("the run has not begun; call begin before anything is charged")
        query = (
            "SELECT count(*) FROM states s JOIN operations o ON s.operation = o.entry WHERE o.name = ? AND state = ?"
        )
        refusals = self._store.one(query, name, "refused")
        assert refusals is not None
        return hashlib.sha256(canonical([run[0], name, refusals[0]]).encode()).hexdigest()[:32]
