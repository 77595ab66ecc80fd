"""What becomes of an attempt that failed."""

from __future__ import annotations

import ssl

import httpx
import pytest

from blackbox_ti.attempt import Effect
from blackbox_ti.errors import (
    AuthError,
    BlackboxTIError,
    BudgetSpentError,
    ConnectError,
    OverloadedError,
    ProtocolError,
    RejectedError,
    WireError,
)
from blackbox_ti.failures import malformed_reply, refusal, wire_failure
from blackbox_ti.wire import Problem

URL = "https://host"


@pytest.mark.parametrize(
    ("raised", "error", "kind", "effect"),
    [
        (httpx.ConnectError("x"), ConnectError, "connect", "none"),
        (httpx.ConnectTimeout("x"), ConnectError, "connect", "none"),
        (httpx.PoolTimeout("x"), ConnectError, "connect", "none"),
        (httpx.ProxyError("x"), ConnectError, "connect", "none"),
        (httpx.ReadTimeout("x"), OverloadedError, "timeout", "unknown"),
        (httpx.WriteTimeout("x"), OverloadedError, "timeout", "unknown"),
        (httpx.ReadError("x"), ConnectError, "connection", "unknown"),
        (httpx.CloseError("x"), ConnectError, "connection", "unknown"),
        (httpx.RemoteProtocolError("x"), ProtocolError, "malformed", "unknown"),
        (httpx.DecodingError("x"), ProtocolError, "malformed", "unknown"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_httpx_raises_is_one_of_ours(
    raised: httpx.HTTPError, error: type[BlackboxTIError], kind: str, effect: str
) -> None:
    """Only what certainly reached no host is without effect, and all of it may pass."""
    failed = wire_failure(raised, URL)
    assert type(failed.error) is error
    assert (failed.kind, failed.effect, failed.retryable) == (kind, effect, True)
    assert URL in str(failed.error)


def test_what_is_no_failure_of_the_way_is_not_tried_again() -> None:
    """A redirect loop or the like stays what it is."""
    failed = wire_failure(httpx.TooManyRedirects("x"), URL)
    assert (type(failed.error), failed.kind, failed.retryable) == (ProtocolError, "malformed", False)


def _ssl_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "tls")
    error.reason = reason
    return error


def _certificate_error() -> ssl.SSLError:
    error = ssl.SSLCertVerificationError(1, "tls")
    error.verify_message = "self-signed\x1b[31m certificate"
    return error


@pytest.mark.parametrize(
    ("cause", "error", "told"),
    [
        (_certificate_error(), ConnectError, r"self-signed \[31m certificate"),
        (_ssl_error("UNSUPPORTED_PROTOCOL"), ConnectError, r"1\.2 or later"),
        (_ssl_error("TLSV1_ALERT_PROTOCOL_VERSION"), ConnectError, r"1\.2 or later"),
        (_ssl_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"), AuthError, "client certificate"),
    ],
)
@pytest.mark.parametrize("outer", [httpx.ConnectError("x"), httpx.ReadError("x")])
def test_a_failed_handshake_is_told_by_its_cause_and_final(
    outer: httpx.TransportError, cause: ssl.SSLError, error: type[BlackboxTIError], told: str
) -> None:
    """However deep the TLS error lies, it names what to mend, and nothing reached the host."""
    between = OSError("between")
    between.__context__ = cause
    outer.__cause__ = between
    failed = wire_failure(outer, URL)
    assert (type(failed.error), failed.retryable, failed.effect) == (error, False, "none")
    with pytest.raises(error, match=told):
        raise failed.error


def test_another_tls_error_is_a_broken_connection() -> None:
    """What names no cause that a user can mend may pass."""
    outer = httpx.ReadError("x")
    outer.__cause__ = _ssl_error("UNEXPECTED_EOF_WHILE_READING")
    failed = wire_failure(outer, URL)
    assert (failed.kind, failed.retryable, failed.effect) == ("connection", True, "unknown")


def test_a_status_alone_says_whether_the_host_can_have_acted() -> None:
    """What blames the request had no effect, but a timeout and a key in flight may have had one."""
    failed = {status: refusal(status, None) for status in range(300, 600)}
    assert {f.kind for f in failed.values()} == {"status"}
    assert {status for status, f in failed.items() if f.effect == "unknown"} == {408, 409, *range(500, 600)}


@pytest.mark.parametrize(("status", "effect"), [(503, "none"), (400, "unknown")])
def test_a_call_can_know_better_what_a_status_tells(status: int, effect: Effect) -> None:
    """Of the statuses that it names, and of no other."""
    assert refusal(status, None, {status: effect}).effect == effect
    assert refusal(status, None, {status + 1: effect}).effect != effect


@pytest.mark.parametrize(
    ("status", "code", "error", "retryable"),
    [
        (429, "rate_limited", OverloadedError, True),
        (429, "budget_spent", BudgetSpentError, False),
        (409, "idempotency_key_in_flight", OverloadedError, True),
        (422, "invalid_request", RejectedError, False),
    ],
)
def test_a_problem_names_the_failure(status: int, code: str, error: type[BlackboxTIError], *, retryable: bool) -> None:
    """Its code is the kind in the books, and decides the error."""
    failed = refusal(status, Problem(status=status, code=code))
    assert (type(failed.error), failed.kind, failed.retryable) == (error, code, retryable)


def test_a_hosts_own_code_is_cut_short_before_it_is_booked() -> None:
    """What a stranger wrote is one short printable line."""
    failed = refusal(400, Problem(status=400, code="a\n\x1b" + "b" * 500))
    assert len(failed.kind) <= 80
    assert failed.kind.isprintable()


@pytest.mark.parametrize("error", [ProtocolError("no"), WireError("no")])
def test_a_malformed_reply_keeps_its_error(error: ProtocolError | WireError) -> None:
    """It is asked for again, and whether the host acted is not known."""
    failed = malformed_reply(error)
    assert failed.error is error
    assert (failed.kind, failed.retryable, failed.effect) == ("malformed", True, "unknown")
