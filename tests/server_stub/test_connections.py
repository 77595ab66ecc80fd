"""One connection, fed bytes by hand; whole servers over sockets are in `tests/e2e/test_server_process.py`."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from blackbox_ti.wire import Problem
from server_stub.auth import CLIENT_CERTIFICATE
from server_stub.connections import connection_class

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Tls:
    """What TLS knows of the peer: its certificate (DER), or none."""

    def __init__(self, certificate: bytes | None) -> None:
        self._certificate = certificate

    def getpeercert(self, *, binary_form: bool) -> bytes | None:
        """Return the certificate."""
        assert binary_form
        return self._certificate


class Wire(asyncio.Transport):
    """A transport that remembers what was written, and whether it was closed."""

    def __init__(self, tls: Tls | None = None) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2), "ssl_object": tls})
        self.written = b""
        self.closed = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Remember."""
        self.written += bytes(data)

    def close(self) -> None:
        """Remember."""
        self.closed.set()

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return self.closed.is_set()

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


async def _ask(sent: bytes, tls: Tls | None = None, *, header_timeout: float = 60.0) -> tuple[Wire, list[Scope]]:
    """Send bytes over a new connection; return its wire when it is closed, and the scopes the app was called with."""
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b"ok"})

    config = Config(app, lifespan="off", log_config=None)
    config.load()
    kind: Any = connection_class(header_timeout=header_timeout)
    connection = kind(config=config, server_state=ServerState(), app_state={})
    wire = Wire(tls)
    connection.connection_made(wire)
    connection.data_received(sent)
    await asyncio.wait_for(wire.closed.wait(), 60)
    connection.connection_lost(None)
    return wire, scopes


def test_what_is_not_http_is_told_as_a_problem_and_hung_up_on() -> None:
    """The answer is a 400 with its request's id, repeats nothing, and the app never hears of it."""
    wire, scopes = asyncio.run(_ask(b"secret \x00 garbage\r\n\r\n"))
    head, _, body = wire.written.partition(b"\r\n\r\n")
    told = Problem.model_validate_json(body)
    assert head.startswith(b"HTTP/1.1 400")
    assert (told.status, told.code) == (400, "invalid_request")
    assert (told.request_id or "").encode() in head
    assert b"secret" not in wire.written
    assert not scopes


def test_a_client_certificate_reaches_the_app_and_nothing_else_passes_for_one() -> None:
    """The verified certificate is in the scope; without one the key is not there, whatever a header says."""
    _, (known,) = asyncio.run(_ask(REQUEST, Tls(b"der")))
    assert known[CLIENT_CERTIFICATE] == b"der"
    for tls in (Tls(None), None):
        forged = REQUEST.replace(b"Host: a", b"Host: a\r\n" + CLIENT_CERTIFICATE.encode() + b": der")
        _, (unknown,) = asyncio.run(_ask(forged, tls))
        assert CLIENT_CERTIFICATE not in unknown


def test_a_connection_that_says_nothing_is_closed_and_one_that_asked_is_answered() -> None:
    """The time limit is for headers alone."""
    silent, scopes = asyncio.run(_ask(b"GET / HT", header_timeout=0.0))
    assert silent.written == b""
    assert not scopes
    asked, scopes = asyncio.run(_ask(REQUEST, header_timeout=0.0))
    assert asked.written.startswith(b"HTTP/1.1 200")
    assert b"ok" in asked.written
    assert len(scopes) == 1
