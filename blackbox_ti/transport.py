"""One HTTP attempt, and the one retry layer around it.

A `Call` is the same bytes under the same idempotency key however often it is tried. What each try on the wire did is
an `Attempt`, handed to a hook: the retry layer does not know who listens. Nothing here knows what a reply means; a
`parse` function given with the call turns it into a value or raises `ProtocolError` or `WireError`, and then the call
is tried again.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn, TypeVar

import httpx
import numpy as np
import tenacity
from pydantic import SecretStr

from blackbox_ti.attempt import Attempt, Call, Effect, Reply
from blackbox_ti.connection import ConnectionOptions, checked_url, open_client, timeouts
from blackbox_ti.errors import AuthError, BlackboxTIError, ConnectError, OverloadedError, ProtocolError, WireError
from blackbox_ti.problems import ProblemInReply, error_from, is_retryable, parse_problem, printable
from blackbox_ti.retry import RetryPolicy, backoff, requested_wait
from blackbox_ti.wire import IDEMPOTENCY_KEY_HEADER, REPLAYED_HEADER, REQUEST_ID_HEADER, Problem

__all__ = ["Attempt", "Call", "Effect", "Reply", "Transport"]

T = TypeVar("T")

_MAX_PROBLEM_BYTES: Final = 65_536
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_OLD_TLS: Final = {"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"}
_MALFORMED: Final = (httpx.RemoteProtocolError, httpx.DecodingError, ProtocolError, WireError)


@dataclass
class _Tally:
    """What is known of an attempt so far."""

    number: int
    started_at: float
    started: float
    status: int | None = None
    bytes_down: int = 0
    request_id: str | None = None
    retry_after: float | None = None
    replayed: bool = False


class _FailedAttempt(Exception):  # noqa: N818 (control flow between the two layers, never seen outside)
    """One failed attempt: the error it would be, and what the retry layer needs to know."""

    def __init__(self, error: BlackboxTIError, kind: str, *, retryable: bool, effect: Effect) -> None:
        super().__init__(kind)
        self.error = error
        self.kind = kind
        self.retryable = retryable
        self.effect: Effect = effect
        self.retry_after: float | None = None


class Transport:
    """A host's address and the way to it; safe to call from many threads. `answered`: whether any call ever worked.

    Args:
        url: the host's address, https unless it is on loopback.
        api_key: sent as a bearer token.
        options: TLS, proxy and timeouts.
        policy: how patient a call is unless it says otherwise.
        http: the seam: any httpx transport instead of sockets.
        on_attempt: called once an attempt, from the thread that made it, before the call goes on.
        rng: draws the jitter.
        sleep: waits so many seconds.
        clock: monotonic seconds.
        wall_clock: seconds since the epoch.

    Raises:
        InputError: the address is not one, or not https off loopback, or TLS files cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: SecretStr | None = None,
        options: ConnectionOptions | None = None,
        policy: RetryPolicy | None = None,
        http: httpx.BaseTransport | None = None,
        on_attempt: Callable[[Attempt], None] | None = None,
        rng: np.random.Generator | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        options = options or ConnectionOptions()
        self.url = checked_url(url, allow_http=options.allow_http)
        self.policy = policy or RetryPolicy()
        self._options = options
        tls = self.url.startswith("https") or options.proxy is not None or options.trust_env
        self._client = open_client(options, http, tls=tls)
        self._api_key = api_key
        self.answered = False
        self._on_attempt = on_attempt
        self._rng = rng if rng is not None else np.random.default_rng()
        self._sleep = sleep
        self._clock = clock
        self._wall_clock = wall_clock

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def send(self, call: Call, parse: Callable[[Reply], T], *, policy: RetryPolicy | None = None) -> T:
        """Ask until there is an answer: what `parse` makes of the first accepted reply.

        Raises:
            BlackboxTIError: the last attempt's error, when asking again cannot help or patience has run out.
        """
        policy = policy or self.policy
        deadline = self._clock() + policy.deadline
        counts = {"malformed": 0, "connect": 0}
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: _worth_retrying(error, call, policy, counts)),
            wait=lambda state: backoff(state.attempt_number, _failure(state).retry_after, policy, self._rng),
            stop=lambda state: self._clock() + state.upcoming_sleep >= deadline,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt:
                    return self._attempt(call, parse, attempt.retry_state.attempt_number, deadline)
        except _FailedAttempt as failed:
            raise failed.error from failed.__cause__
        raise AssertionError("tenacity ends by returning or raising")

    def _attempt(self, call: Call, parse: Callable[[Reply], T], number: int, deadline: float) -> T:
        """Try once, and tell the hook."""
        tally = _Tally(number=number, started_at=self._wall_clock(), started=self._clock())
        try:
            value = self._exchange(call, parse, tally, deadline)
        except _FailedAttempt as failed:
            failed.retry_after = tally.retry_after
            self._tell(call, tally, error=failed.kind, effect=failed.effect)
            raise
        self.answered = True
        self._tell(call, tally, error=None, effect="done")
        return value

    def _exchange(self, call: Call, parse: Callable[[Reply], T], tally: _Tally, deadline: float) -> T:
        """Send, receive and parse, with every failure turned into a `_FailedAttempt` by one table."""
        try:
            with self._client.stream(
                call.method,
                self.url + call.path,
                content=call.body,
                headers=self._headers(call),
                params=call.query,
                timeout=timeouts(self._options, deadline - self._clock()),
            ) as response:
                self._read_head(response, tally)
                reply = self._read_body(response, call, tally, deadline)
            return parse(reply)
        except httpx.HTTPError as error:
            _raise_for_wire(error, self.url)
        except ProblemInReply as refused:
            _raise_for_status(refused.problem.status, refused.problem, _effect(refused.problem.status))
        except (ProtocolError, WireError) as error:
            raise _FailedAttempt(error, "malformed", retryable=True, effect="unknown") from error

    def _headers(self, call: Call) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        if call.idempotency_key is not None:
            headers[IDEMPOTENCY_KEY_HEADER] = call.idempotency_key
        if self._api_key is not None:
            headers["Authorization"] = f"Bearer {self._api_key.get_secret_value()}"
        return headers | dict(call.headers)

    def _read_head(self, response: httpx.Response, tally: _Tally) -> None:
        headers = response.headers
        tally.status = response.status_code
        tally.request_id = printable(headers.get(REQUEST_ID_HEADER, ""), 80) or None
        tally.replayed = headers.get(REPLAYED_HEADER, "").lower() == "true"
        if not response.is_success:
            now = datetime.fromtimestamp(self._wall_clock(), tz=UTC)
            tally.retry_after = requested_wait(_lower(headers), now)

    def _read_body(self, response: httpx.Response, call: Call, tally: _Tally, deadline: float) -> Reply:
        """Return the reply of a 2xx response; anything else is a failed attempt."""
        limit = call.max_reply_bytes if response.is_success else _MAX_PROBLEM_BYTES
        body = bytearray()
        for chunk in self._chunks(response, deadline):
            body += chunk
            tally.bytes_down = len(body)
            if len(body) > limit:
                raise ProtocolError(f"the host's reply is longer than the {limit} bytes it can have")
        if not response.is_success:
            status = response.status_code
            _raise_for_status(status, parse_problem(status, bytes(body)), call.effects.get(status, _effect(status)))
        return Reply(response.status_code, _lower(response.headers), bytes(body))

    def _chunks(self, response: httpx.Response, deadline: float) -> Iterator[bytes]:
        """Yield the body as it comes; a compressed one was not asked for and could be a bomb."""
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ProtocolError("the host compressed a reply that was asked for plain")
        for chunk in response.iter_bytes():
            if self._clock() >= deadline:
                raise httpx.ReadTimeout("the reply was not whole by the deadline")
            yield chunk

    def _tell(self, call: Call, tally: _Tally, *, error: str | None, effect: Effect) -> None:
        if self._on_attempt is None:
            return
        attempt = Attempt(
            number=tally.number,
            idempotency_key=call.idempotency_key,
            method=call.method,
            path=call.path,
            started_at=tally.started_at,
            latency=self._clock() - tally.started,
            status=tally.status,
            error=error,
            effect=effect,
            bytes_up=len(call.body or b""),
            bytes_down=tally.bytes_down,
            request_id=tally.request_id,
            retry_after=tally.retry_after,
            replayed=tally.replayed,
        )
        self._on_attempt(attempt)


def _lower(headers: httpx.Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _failure(state: tenacity.RetryCallState) -> _FailedAttempt:
    assert state.outcome is not None
    failed = state.outcome.exception()
    assert isinstance(failed, _FailedAttempt)
    return failed


def _worth_retrying(error: BaseException, call: Call, policy: RetryPolicy, counts: dict[str, int]) -> bool:
    if not isinstance(error, _FailedAttempt) or not error.retryable:
        return False
    if error.effect != "none" and not call.idempotent:
        return False
    if error.kind in counts:
        counts[error.kind] += 1
    unreachable = policy.max_unreachable is not None and counts["connect"] >= policy.max_unreachable
    return not unreachable and counts["malformed"] < policy.max_malformed


def _raise_for_status(status: int, problem: Problem | None, effect: Effect) -> NoReturn:
    kind = printable(problem.code, 80) if problem is not None else "status"
    retryable = is_retryable(status, problem)
    raise _FailedAttempt(error_from(status, problem), kind, retryable=retryable, effect=effect)


def _effect(status: int) -> Effect:
    """Return whether a refusal leaves the host's books untouched: what it blames on the request does."""
    return "none" if status < 500 and status not in {408, 409} else "unknown"


def _raise_for_wire(error: httpx.HTTPError, url: str) -> NoReturn:
    """Map what httpx raises; which of them certainly did not reach the host decides the effect."""
    effect: Effect = "none" if isinstance(error, _NOT_SENT) else "unknown"
    tls = _tls_error(error)
    failed: BlackboxTIError
    if tls is not None:
        failed, kind, retryable = tls, "connect", False
        effect = "none"
    elif isinstance(error, _NOT_SENT):
        failed, kind, retryable = ConnectError(f"no host answers at {url}; check the address"), "connect", True
    elif isinstance(error, httpx.TimeoutException):
        failed, kind, retryable = OverloadedError(f"the host at {url} did not answer in time"), "timeout", True
    elif isinstance(error, _MALFORMED):
        failed, kind, retryable = ProtocolError(f"what {url} answered is not HTTP or breaks off"), "malformed", True
    elif isinstance(error, httpx.TransportError):
        failed, kind, retryable = ConnectError(f"the connection to {url} broke"), "connection", True
    else:
        failed, kind, retryable = ProtocolError(f"the host at {url} cannot be talked to"), "malformed", False
    raise _FailedAttempt(failed, kind, retryable=retryable, effect=effect) from error


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
