"""Books, servers on them, and a clock that tests move, for the tests of accounting."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from blackbox_ti.wire import Receipt
from server_stub.accounts import Accounts
from server_stub.database import Books
from server_stub.idempotency import Operations
from server_stub.presence import Presence
from server_stub.receipts import Order, Signer

__all__ = ["Clock", "OneServer", "order", "reply"]


class Clock:
    """Seconds since 1970 that pass only when told to; it starts in the morning of 2026-03-31, UTC."""

    def __init__(self) -> None:
        self.now = 1_774_947_600.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def order(account_id: int, key: str, *, route: str = "/v1/loss", body: bytes = b"{}") -> Order:
    """Return an order of the account `ada`."""
    return Order(account_id, "ada", key, route, hashlib.sha256(body).hexdigest(), "fake", "ab" * 32, "USD")


def reply(receipt: Receipt) -> bytes:
    """Return a reply that tells the receipt's number."""
    return f"reply {receipt.sequence}".encode()


class OneServer:
    """What one server process holds of the books in `folder`, or at `url`."""

    def __init__(
        self, folder: Path, clock: Callable[[], float], *, url: str | None = None, lease: float = 30.0
    ) -> None:
        self.books = Books(url or f"sqlite:///{folder / 'books.sqlite'}")
        self.signer = Signer.at(folder / "receipts.key")
        self.presence = Presence(self.books, folder / "servers", lease=lease, clock=clock)
        self.operations = Operations(self.books, self.signer, self.presence, clock=clock)
        self.accounts = Accounts(self.books, clock=clock)

    def die(self) -> None:
        """Let go of everything, as the end of a process does."""
        self.presence.close()
        self.books.close()
