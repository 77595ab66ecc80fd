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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from blackbox_ti.attempt import Attempt
from blackbox_ti.budget import Caps, Cost, check_caps
from blackbox_ti.endpoint import Guarantees
from blackbox_ti.errors import LedgerError, ResumeError
from blackbox_ti.ledger_reader import LedgerReader
from blackbox_ti.ledger_records import (
    Operation,
    RunIdentity,
    State,
    canonical,
    check_same_request,
    check_same_run,
    digest,
)
from blackbox_ti.ledger_store import Store

__all__ = ["Ledger", "Operation", "RunIdentity", "State"]


class Ledger(LedgerReader):
    """An open book to write to, safe from many threads.

    Args:
        path: the file, made unless `create` is false.
        create: whether to make the file where there is none.
        clock: seconds since the epoch.

    Raises:
        LedgerError: there is no such book, or the file is not one this version can use.
    """

    def __init__(self, path: Path, *, create: bool = True, clock: Callable[[], float] = time.time) -> None:
        store = Store(path, create=create, clock=clock)
        try:
            super().__init__(store, clock=clock)
        except LedgerError:
            store.close()
            raise

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
            if guarantees != self.recorded_guarantees():
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
            found = self.find(name)
            if found is not None:
                check_same_request(found, sha256, parts)
                if found.state != "refused":
                    return self._take_over(found)
            check_caps(self.caps(), self.committed(), self.wall_seconds(), cost)
            columns = {"name": name, "label": label, "route": route, "request_sha256": sha256}
            entry = found.entry if found else self._store.append("operations", {**columns, "parts": canonical(parts)})
            self._change(entry, "reserved", self._new_key(name), cost, before=Cost())
            reserved = self.find(name)
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
        now = self.find(operation.name)
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
