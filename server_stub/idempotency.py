"""Charged operations, exactly once: reserve, compute, then charge or release, each step one transaction.

    no record --begin--> held --settle--> done (reply kept, charged once, replayed for the same key)
                          |
                          '--release--> no record (nothing charged, the key is free again)

A reservation belongs to the server process that made it, by a token drawn for it. When that process dies, no reply
left the house and nothing was charged, so whoever finds it releases it, and the retried key computes again. A
process that was wrongly taken for dead finds its token gone when it settles: it charges nothing and sends nothing.
A reservation need not outlive a power failure, which ends its process as well: only settling waits for the disk.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import sqlalchemy as sa

from blackbox_ti.wire import Receipt
from server_stub import spending
from server_stub.database import Books, BooksUnavailableError, locked_account, operations
from server_stub.presence import Presence
from server_stub.receipts import Order, Signer, append
from server_stub.spending import Amount

__all__ = ["Conflict", "ConflictError", "Operations", "Replay", "Reservation", "ReservationLostError", "day_of"]


class Conflict(Enum):
    """Why a key cannot be used for a request."""

    IN_FLIGHT = "in flight"
    REUSED = "reused"


class ConflictError(Exception):
    """The idempotency key is in use."""

    def __init__(self, conflict: Conflict) -> None:
        super().__init__(conflict.value)
        self.conflict = conflict


class ReservationLostError(Exception):
    """The reservation was given up for another process; nothing was charged."""


@dataclass(frozen=True)
class Replay:
    """The stored reply of an operation that is done."""

    reply: bytes


@dataclass(frozen=True)
class Reservation:
    """The right to compute one operation and to charge no more than `amount` for it."""

    order: Order
    token: str
    day: str
    amount: Amount


def day_of(seconds: float) -> str:
    """Return the UTC day of a time as YYYY-MM-DD."""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


class Operations:
    """The operations in `books`, as one server process sees them; `clock` gives seconds since 1970."""

    def __init__(
        self, books: Books, signer: Signer, presence: Presence, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._books = books
        self._signer = signer
        self._presence = presence
        self._clock = clock
        self._strays: list[Reservation] = []
        self._strays_lock = threading.Lock()

    def find(self, account_id: int, key: str, route: str, request_sha256: str) -> Replay | None:
        """Return the stored reply for a key, or None where the key is free.

        Raises:
            ConflictError: the key is in flight, or belongs to another request.
        """
        with self._books.read() as connection:
            return _judge(_record(connection, account_id, key), route, request_sha256)

    def begin(self, order: Order, amount: Amount) -> Replay | Reservation:
        """Reserve `amount` for a new operation, or return the stored reply where it is done.

        Raises:
            ConflictError: the key is in flight, or belongs to another request.
            BudgetSpentError: a budget does not allow it.
        """
        reservation = Reservation(order, secrets.token_hex(16), day_of(self._clock()), amount)
        with self._books.write(durable=False) as connection:
            locked_account(connection, order.account_id)
            found = _record(connection, order.account_id, order.key)
            replay = _judge(found, order.route, order.request_sha256)
            if replay is not None:
                return replay
            spending.hold(connection, order.account_id, reservation.day, amount)
            connection.execute(sa.insert(operations).values(self._row(reservation)))
        return reservation

    def _row(self, reservation: Reservation) -> dict[str, Any]:
        order = reservation.order
        return {
            "account_id": order.account_id,
            "key": order.key,
            "route": order.route,
            "request_sha256": order.request_sha256,
            "token": reservation.token,
            "server": self._presence.id,
            "state": "held",
            "day": reservation.day,
            **reservation.amount.__dict__,
        }

    def settle(self, reservation: Reservation, amount: Amount, reply: Callable[[Receipt], bytes]) -> bytes:
        """Charge `amount`, sign its receipt, keep the reply that `reply` makes of it, and return that reply.

        Raises:
            ReservationLostError: the reservation was given up meanwhile.
        """
        order = reservation.order
        try:
            with self._books.write() as connection:
                row = locked_account(connection, order.account_id)
                spending.charge(connection, order.account_id, reservation.day, reservation.amount, amount)
                receipt = append(connection, row, self._signer, order=order, amount=amount, at=self._clock())
                body = reply(receipt)
                done = {"state": "done", "finished_at": self._clock(), "reply": body, **amount.__dict__}
                if not connection.execute(sa.update(operations).where(_held(reservation)).values(done)).rowcount:
                    raise ReservationLostError
            return body
        except ReservationLostError:
            raise
        except BaseException:
            self.release(reservation)
            raise

    def release(self, reservation: Reservation) -> None:
        """Give a reservation back; where the database cannot be reached it is done by a later `tidy`."""
        try:
            with self._books.write() as connection:
                _release(connection, reservation)
        except BooksUnavailableError:
            with self._strays_lock:
                self._strays.append(reservation)

    def tidy(self, *, retention: float) -> int:
        """Say that this process lives, release what dead ones held, drop replies older than `retention` seconds.

        Return how many reservations were released.
        """
        with self._strays_lock:
            strays, self._strays = self._strays, []
        for stray in strays:
            self.release(stray)
        dead = self._presence.beat()
        released = sum(self._release_held_by(server) for server in dead)
        self._presence.bury(dead)
        old = (operations.c.state == "done") & (operations.c.finished_at < self._clock() - retention)
        with self._books.write() as connection:
            connection.execute(sa.delete(operations).where(old))
        return released

    def _release_held_by(self, server: str) -> int:
        held = (operations.c.server == server) & (operations.c.state == "held")
        with self._books.read() as connection:
            rows: Sequence[sa.Row[Any]] = connection.execute(sa.select(operations).where(held)).all()
        for row in rows:
            order = Order(row.account_id, "", row.key, row.route, row.request_sha256, "", "", "")
            amount = Amount(row.forwards, row.queries, row.price_micros)
            with self._books.write() as connection:
                _release(connection, Reservation(order, row.token, row.day, amount))
        return len(rows)


def _release(connection: sa.Connection, reservation: Reservation) -> None:
    locked_account(connection, reservation.order.account_id)
    if connection.execute(sa.delete(operations).where(_held(reservation))).rowcount:
        spending.release(connection, reservation.order.account_id, reservation.day, reservation.amount)


def _held(reservation: Reservation) -> sa.ColumnElement[bool]:
    order = reservation.order
    return sa.and_(
        operations.c.account_id == order.account_id,
        operations.c.key == order.key,
        operations.c.token == reservation.token,
        operations.c.state == "held",
    )


def _record(connection: sa.Connection, account_id: int, key: str) -> sa.Row[Any] | None:
    same = (operations.c.account_id == account_id) & (operations.c.key == key)
    return connection.execute(sa.select(operations).where(same)).first()


def _judge(row: sa.Row[Any] | None, route: str, request_sha256: str) -> Replay | None:
    if row is None:
        return None
    if (row.route, row.request_sha256) != (route, request_sha256):
        raise ConflictError(Conflict.REUSED)
    if row.state != "done":
        raise ConflictError(Conflict.IN_FLIGHT)
    return Replay(bytes(row.reply))
