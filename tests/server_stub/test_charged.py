"""Tests of the one path of a charged request where its client, its reservation or its key goes astray."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import sqlalchemy as sa
from starlette.types import Message

from server_stub.database import Books
from tests.server_stub.served import Served, loss_body, served


class LeavingClient:
    """A client that sends one request to the app and hangs up when told to, before any reply."""

    def __init__(self, app: Any, body: Any, key: str) -> None:
        self._app = app
        self._body = json.dumps(body).encode()
        self._key = key
        self.sent = asyncio.Event()
        self.hang_up = asyncio.Event()
        self.status: int | None = None

    async def run(self) -> None:
        """Send the request and wait until the app is done with it."""
        headers = {"host": "127.0.0.1", "content-type": "application/json", "idempotency-key": self._key}
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/loss",
            "raw_path": b"/v1/loss",
            "query_string": b"",
            "scheme": "http",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 9),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self.sent.is_set():
            self.sent.set()
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.status = message.get("status", self.status)


async def leave_while_queued(app: Served, body: Any) -> int | None:
    """Send a request that has to queue, hang up once it is reserved, and return the status nobody reads."""
    client = LeavingClient(app.client.app, body, "k")
    running = asyncio.create_task(client.run())
    while held(app.host.books, "k") is None:
        await asyncio.sleep(0.005)
    while app.host.lane.waiting < 1:
        await asyncio.sleep(0.005)
    client.hang_up.set()
    await running
    return client.status


def held(books: Books, key: str) -> str | None:
    """Return the state of an operation."""
    with books.read() as connection:
        found = connection.execute(sa.text("SELECT state FROM operations WHERE key = :key"), {"key": key}).scalar()
    return found if found is None else str(found)


def occupy(app: Served, body: Any) -> threading.Thread:
    """Keep the device busy with a request until the engine's gate opens."""
    app.engine.gate.clear()
    app.engine.entered.clear()
    worker = threading.Thread(target=lambda: app.charged("/v1/loss", body, key="first"))
    worker.start()
    assert app.engine.entered.wait(10)
    return worker


def test_a_client_that_leaves_before_its_turn_costs_nothing() -> None:
    """Queued work of a client that hung up never runs, nothing is held or charged, and the key is free again."""
    with served() as app:
        body = loss_body(app.concept())
        worker = occupy(app, body)
        assert asyncio.run(leave_while_queued(app, body)) == 499
        assert held(app.host.books, "k") is None
        calls = app.engine.calls
        app.engine.gate.set()
        worker.join()
        again = app.charged("/v1/loss", body, key="k")
        assert (again.status_code, "idempotent-replayed" in again.headers) == (200, False)
        assert app.engine.calls == calls + 1
        assert app.client.get("/v1/usage").json()["forwards"] == 12


def test_a_reply_whose_reservation_was_given_up_is_not_sent() -> None:
    """Where another process took the reservation for a dead one's, the answer is 503 and nothing is charged."""
    with served() as app:
        body = loss_body(app.concept())
        worker = occupy(app, body)
        with app.host.books.write() as connection:
            connection.execute(sa.text("DELETE FROM operations"))
        replies: list[Any] = []
        second = threading.Thread(target=lambda: replies.append(app.charged("/v1/loss", body, key="k")))
        second.start()
        while held(app.host.books, "k") is None:
            second.join(0.005)
        with app.host.books.write() as connection:
            connection.execute(sa.text("UPDATE operations SET token = 'another'"))
        app.engine.gate.set()
        worker.join()
        second.join()
        assert (replies[0].status_code, replies[0].json()["code"]) == (503, "overloaded")
        assert int(replies[0].headers["retry-after"]) >= 1
        assert app.client.get("/v1/usage").json()["forwards"] == 0


def test_the_receipt_is_for_the_bytes_that_were_sent() -> None:
    """The receipt names the hash of the body, the key, the route, and links to the one before."""
    import hashlib

    with served() as app:
        body = json.dumps(loss_body(app.concept()), indent=3)
        first = app.charged("/v1/loss", body, key="a").json()["charge"]["receipt"]
        second = app.charged("/v1/loss", body, key="b").json()["charge"]["receipt"]
        assert first["request_sha256"] == hashlib.sha256(body.encode()).hexdigest()
        assert (first["route"], first["idempotency_key"], first["previous"]) == ("/v1/loss", "a", "0" * 64)
        assert (second["sequence"], second["previous"]) == (2, first["hash"])
