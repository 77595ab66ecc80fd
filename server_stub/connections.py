"""One connection of uvicorn's, with what it lacks: client certificates, a time limit for headers, problem details."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, Final

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from blackbox_ti.wire import REQUEST_ID_HEADER, ProblemCode
from server_stub.auth import CLIENT_CERTIFICATE
from server_stub.problems import ProblemError, problem_response

__all__ = ["connection_class"]

_BAD: Final = "this is not a valid HTTP request, or its headers are too long"


def connection_class(*, header_timeout: float) -> type[H11Protocol]:
    """Return the protocol class for connections whose first headers arrive within `header_timeout` seconds."""

    class Connection(H11Protocol):
        """An HTTP/1.1 connection."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            tls = transport.get_extra_info("ssl_object")
            certificate: bytes | None = tls.getpeercert(binary_form=True) if tls is not None else None
            if certificate is not None:
                self.app = _with_certificate(self.app, certificate)
            self._deadline = self.loop.call_later(header_timeout, self._close_if_silent)

        def connection_lost(self, exc: Exception | None) -> None:
            self._deadline.cancel()
            super().connection_lost(exc)

        def _close_if_silent(self) -> None:
            if self.cycle is None:
                self.transport.close()

        def send_400_response(self, msg: str) -> None:
            del msg
            request_id = uuid.uuid4().hex
            response = problem_response(ProblemError(ProblemCode.INVALID_REQUEST, _BAD, status=400), request_id)
            headers = [*response.raw_headers, (REQUEST_ID_HEADER.encode(), request_id.encode())]
            events: list[Any] = [
                h11.Response(status_code=400, headers=[*headers, (b"connection", b"close")], reason=b"Bad Request"),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ]
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Connection


def _with_certificate(app: Any, certificate: bytes) -> Any:
    """Return `app` that finds the connection's client certificate (DER), verified by TLS, in its scope."""
    inner: ASGIApp = app

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        await inner({**scope, CLIENT_CERTIFICATE: certificate}, receive, send)

    return wrapped
