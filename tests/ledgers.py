"""A run's book for tests: one whose run has begun, reservations and attempts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blackbox_ti.attempt import Attempt
from blackbox_ti.budget import Caps, Cost
from blackbox_ti.ledger import Ledger, Operation, RunIdentity

__all__ = ["IDENTITY", "UNIT", "attempt", "opened", "reserve"]

IDENTITY = RunIdentity(endpoint="https://host.example", settings={"seed": 1, "dims": [2, 3]}, pictures=["aa", "bb"])
UNIT = Cost(1, 1, 1)


def opened(folder: Path, caps: Caps | None = None, **options: Any) -> Ledger:
    """Return a ledger in `folder` whose run has begun."""
    ledger = Ledger(folder / "ledger.sqlite", **options)
    ledger.begin(IDENTITY, caps or Caps())
    return ledger


def reserve(ledger: Ledger, name: str, cost: Cost = UNIT, **request: Any) -> Operation:
    """Reserve an operation whose request has these fields."""
    return ledger.reserve(name=name, label="search/0", route="loss", request=request, cost=cost)


def attempt(key: str | None, effect: Any = "done") -> Attempt:
    """Return an attempt under a key."""
    return Attempt(
        number=1,
        idempotency_key=key,
        method="POST",
        path="/v1/loss",
        started_at=1.0,
        latency=0.5,
        status=200,
        error=None,
        effect=effect,
        bytes_up=3,
        bytes_down=4,
        request_id="r",
        retry_after=None,
        replayed=False,
    )
