"""From what went wrong on the wire to a failed attempt: the error it would be, and what the retry layer asks of it."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import httpx

from blackbox_ti.attempt import Effect
from blackbox_ti.errors import AuthError, BlackboxTIError, ConnectError, OverloadedError, ProtocolError, WireError
from blackbox_ti.problems import error_from, is_retryable, printable
from blackbox_ti.wire import Problem

__all__ = ["FailedAttempt", "malformed_reply", "refusal", "wire_failure"]

_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_GARBLED: Final = (httpx.RemoteProtocolError, httpx.DecodingError)
_OLD_TLS: Final = {"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"}
_AS_USUAL: Final[Mapping[int, Effect]] = MappingProxyType({})


class FailedAttempt(Exception):  # noqa: N818 (control flow inside the transport, never seen outside)
    """One failed attempt: `error` is what the call raises if this attempt is its last, `kind` and `effect` the book's.

    `retry_after` is in seconds, None where the host asked for nothing.
    """

    def __init__(self, error: BlackboxTIError, kind: str, *, retryable: bool, effect: Effect) -> None:
        super().__init__(kind)
        self.error = error
        self.kind = kind
        self.retryable = retryable
        self.effect: Effect = effect
        self.retry_after: float | None = None


def refusal(status: int, problem: Problem | None, effects: Mapping[int, Effect] = _AS_USUAL) -> FailedAttempt:
    """Return the failure of a reply that is none of success; `effects` says which statuses tell otherwise than usual.

    A refusal that blames the request leaves the host's books untouched; of any other that is not known.
    """
    kind = printable(problem.code, 80) if problem is not None else "status"
    blames_request = status < 500 and status not in {408, 409}
    effect = effects.get(status, "none" if blames_request else "unknown")
    return FailedAttempt(error_from(status, problem), kind, retryable=is_retryable(status, problem), effect=effect)


def malformed_reply(error: ProtocolError | WireError) -> FailedAttempt:
    """Return the failure of a reply that is not what the protocol says."""
    return FailedAttempt(error, "malformed", retryable=True, effect="unknown")


def wire_failure(error: httpx.HTTPError, url: str) -> FailedAttempt:
    """Return the failure that an httpx error stands for; only what certainly did not reach the host had no effect."""
    tls = _tls_error(error)
    if tls is not None:
        return FailedAttempt(tls, "connect", retryable=False, effect="none")
    effect: Effect = "none" if isinstance(error, _NOT_SENT) else "unknown"
    failed, kind, retryable = _wire_error(error, url)
    return FailedAttempt(failed, kind, retryable=retryable, effect=effect)


def _wire_error(error: httpx.HTTPError, url: str) -> tuple[BlackboxTIError, str, bool]:
    """Return the error, its kind, and whether asking again can help."""
    if isinstance(error, _NOT_SENT):
        return ConnectError(f"no host answers at {url}; check the address"), "connect", True
    if isinstance(error, httpx.TimeoutException):
        return OverloadedError(f"the host at {url} did not answer in time"), "timeout", True
    if isinstance(error, _GARBLED):
        return ProtocolError(f"what {url} answered is not HTTP or breaks off"), "malformed", True
    if isinstance(error, httpx.TransportError):
        return ConnectError(f"the connection to {url} broke"), "connection", True
    return ProtocolError(f"the host at {url} cannot be talked to"), "malformed", False


def _tls_error(error: BaseException) -> BlackboxTIError | None:
    """Return the error for a failed TLS handshake, which asking again would not mend."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = printable(cause.verify_message)
            return ConnectError(f"the host's certificate is not accepted ({why}); give its CA, or the right address")
        if isinstance(cause, ssl.SSLError) and (cause.reason or "") in _OLD_TLS:
            return ConnectError("the host speaks no version of TLS in use today (1.2 or later)")
        if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
            return AuthError("the host broke off the TLS handshake; it may ask for a client certificate")
        cause = cause.__cause__ or cause.__context__
    return None
