"""The outermost layer of the app: an id for every request, limits before routing, headers, one log line, no leaks."""

from __future__ import annotations

import time
import uuid
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blackbox_ti.wire import REQUEST_ID_HEADER, ProblemCode
from server_stub.host import Host
from server_stub.limiter import Allowance
from server_stub.logs import logger
from server_stub.problems import ProblemError, problem_response

__all__ = ["OPEN_ROUTES", "Envelope"]

OPEN_ROUTES: Final = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})

_SECURITY_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Envelope:
    """ASGI middleware around all routes of `host`'s app."""

    def __init__(self, app: ASGIApp, host: Host) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Exchange(self._app, self._host, scope, receive, send).run()


class _Exchange:
    """One request and its reply."""

    def __init__(self, app: ASGIApp, host: Host, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._host = host
        self._scope = scope
        self._receive_raw = receive
        self._send_raw = send
        self._headers = Headers(scope=scope)
        self._request_id = uuid.uuid4().hex
        self._state: dict[str, Any] = scope.setdefault("state", {})
        self._state["request_id"] = self._request_id
        self._received = 0
        self._status: int | None = None

    async def run(self) -> None:
        """Answer, count and log the request; whatever goes wrong, a stranger sees an opaque problem."""
        started = time.monotonic()
        self._host.entered()
        try:
            self._check()
            await self._app(self._scope, self._receive, self._send)
        except ProblemError as error:
            await self._refuse(error)
        except Exception:
            logger.exception("a request failed", extra={"request_id": self._request_id, "route": self._route()})
            await self._refuse(ProblemError(ProblemCode.INTERNAL, retry_after=self._host.settings.retry_after))
        finally:
            self._host.left()
            self._log(time.monotonic() - started)

    def _check(self) -> None:
        """Refuse what can be refused before routing, and what comes while the host drains."""
        settings = self._host.settings
        size = sum(len(name) + len(value) + 4 for name, value in self._headers.raw)
        if size > settings.max_header_bytes:
            detail = f"headers of {size} bytes; at most {settings.max_header_bytes}"
            raise ProblemError(ProblemCode.LIMIT_EXCEEDED, detail, status=431, headers={"Connection": "close"})
        length = self._headers.get("content-length", "0")
        if length.isdecimal() and int(length[:19]) > settings.limits.max_body_bytes:
            raise self._too_large()
        if self._scope["path"] not in OPEN_ROUTES:
            self._check_load()

    def _check_load(self) -> None:
        if self._host.draining:
            self._host.check_ready()
        if self._host.active > self._host.settings.max_active:
            after = self._host.settings.retry_after
            raise ProblemError(ProblemCode.OVERLOADED, "too many requests at the same time", retry_after=after)

    def _too_large(self) -> ProblemError:
        most = self._host.settings.limits.max_body_bytes
        detail = f"a body has at most {most} bytes"
        return ProblemError(ProblemCode.BODY_TOO_LARGE, detail, headers={"Connection": "close"})

    async def _receive(self) -> Message:
        message = await self._receive_raw()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if self._received > self._host.settings.limits.max_body_bytes:
                raise self._too_large()
        return message

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID_HEADER] = self._request_id
            for name, value in (_SECURITY_HEADERS | self._rate_headers()).items():
                headers.setdefault(name, value)
            if self._scope.get("scheme") == "https":
                headers["Strict-Transport-Security"] = "max-age=31536000"
        await self._send_raw(message)

    def _rate_headers(self) -> dict[str, str]:
        """Return the RateLimit headers of the key, or on a refusal for load those of a host with nothing left."""
        known: dict[str, str] | None = self._state.get("allowance")
        if known is None and self._status == 503:
            settings = self._host.settings
            known = Allowance(settings.requests_burst, 0, settings.retry_after).headers()
        return known or {}

    async def _refuse(self, error: ProblemError) -> None:
        if self._status is None:
            response = problem_response(error, self._request_id)
            await response(self._scope, self._receive_raw, self._send)

    def _route(self) -> str:
        return str(getattr(self._scope.get("route"), "path", "unmatched"))

    def _log(self, seconds: float) -> None:
        status = self._status or 499
        self._host.metrics.answered(self._route(), _known_method(self._scope["method"]), status, seconds)
        fields = {
            "request_id": self._request_id,
            "account": self._state.get("account"),
            "method": _known_method(self._scope["method"]),
            "route": self._route(),
            "status": status,
            "seconds": round(seconds, 4),
        }
        logger.info("request", extra={name: value for name, value in fields.items() if value is not None})


def _known_method(method: str) -> str:
    """Return the method, or `other`: a stranger's word gets into no log and makes no label."""
    return method if method in {"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"} else "other"
