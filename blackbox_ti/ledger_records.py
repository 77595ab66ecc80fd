"""The ledger's records, and how a run that goes on is held against the one that began: pure functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from blackbox_ti.budget import Cost
from blackbox_ti.errors import ResumeError

__all__ = [
    "OPERATIONS_QUERY",
    "Operation",
    "RunIdentity",
    "State",
    "canonical",
    "check_same_request",
    "check_same_run",
    "digest",
    "operation_of",
]

_UNSET: Final = "unset"

State = Literal["reserved", "settled", "refused", "unknown"]

OPERATIONS_QUERY: Final = (
    "SELECT o.entry, o.name, o.label, o.route, o.request_sha256, o.parts, s.state, s.idempotency_key, s.forwards, "
    "s.queries, s.price_micros, {reply}, s.reply IS NOT NULL, s.receipt, s.reason, s.entry "
    "FROM operations o JOIN states s ON s.entry = (SELECT max(entry) FROM states WHERE operation = o.entry)"
)


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What makes a run this run: the host's address, the settings (plain JSON, no secrets), the pictures' SHA-256."""

    endpoint: str
    settings: Mapping[str, Any]
    pictures: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A charged call as the book has it now, `last` being the entry of its last state.

    `answered` says whether the book has its reply, `reply` being None also where it was not asked for.
    `fresh` is true only where a reservation made it just now, so that no attempt can have gone before.
    `cost` is what it commits: the exact cost asked for, what was charged once settled, nothing once refused.
    """

    entry: int
    name: str
    label: str
    route: str
    request_sha256: str
    state: State
    idempotency_key: str
    parts: Mapping[str, str]
    cost: Cost
    reply: bytes | None = None
    answered: bool = False
    receipt: str | None = None
    reason: str | None = None
    last: int = 0
    fresh: bool = False


def operation_of(row: tuple[Any, ...]) -> Operation:
    """Return the operation in a row of `OPERATIONS_QUERY`."""
    entry, name, label, route, sha256, parts, state, key, *cost, reply, answered, receipt, reason, last = row
    return Operation(
        entry=entry,
        name=name,
        label=label,
        route=route,
        request_sha256=sha256,
        parts=json.loads(parts),
        state=state,
        idempotency_key=key,
        cost=Cost(*cost),
        reply=reply,
        answered=bool(answered),
        receipt=receipt,
        reason=reason,
        last=last,
    )


def check_same_run(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse another run's book.

    Raises:
        ResumeError: names every difference.
    """
    differences = [_difference(what, before[what], now[what]) for what in before if before[what] != now[what]]
    if differences:
        raise ResumeError(f"this is not the run in this folder: {'; '.join(differences)}; use another folder")


def _difference(what: str, before: str, now: str) -> str:
    if what != "settings":
        return f"the {what} was {before}, is {now}" if what == "endpoint" else f"the {what} differ"
    old, new = json.loads(before), json.loads(now)
    changed = sorted(name for name in {*old, *new} if old.get(name, _UNSET) != new.get(name, _UNSET))
    return ", ".join(f"{name} was {old.get(name, _UNSET)!r}, is {new.get(name, _UNSET)!r}" for name in changed)


def check_same_request(found: Operation, sha256: str, parts: Mapping[str, str]) -> None:
    """Refuse a call that differs from the one the book has under its name.

    Raises:
        ResumeError: names the parts of the request that differ.
    """
    if found.request_sha256 == sha256:
        return
    changed = sorted(p for p in {*found.parts, *parts} if found.parts.get(p) != parts.get(p))
    raise ResumeError(
        f"call {found.name} asks something else than before ({', '.join(changed)} differ): the search does not repeat "
        "itself; begin a new run in another folder"
    )


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: Any) -> str:
    """Return canonical JSON: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
