"""One HTTP attempt, and the one retry layer around it.

A `Call` is the same bytes under the same idempotency key however often it is tried. What each try on the wire did is
an `Attempt`, handed to a hook: the retry layer does not know who listens. Nothing here knows what a reply means; a
`parse` function given with the call turns it into a value or raises `ProtocolError` or `WireError`, and then the call
is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import httpx
import numpy as np
import tenacity
from pydantic import SecretStr

from blackbox_ti.attempt import Attempt, Call, Effect, Reply
from blackbox_ti.connection import ConnectionOptions, checked_url, open_client, timeouts
from blackbox_ti.errors import ProtocolError, WireError
from blackbox_ti.failures import FailedAttempt, malformed_reply, refusal, wire_failure
from blackbox_ti.problems import MAX_PROBLEM_BYTES, ProblemInReply, parse_problem, printable
from blackbox_ti.retry import RetryPolicy, backoff, requested_wait
from blackbox_ti.wire import IDEMPOTENCY_KEY_HEADER, REPLAYED_HEADER, REQUEST_ID_HEADER

__all__ = ["Attempt", "Call", "Effect", "Reply", "Transport"]

T = TypeVar("T")


@dataclass
class _Draft:
    """What is known of an attempt while it is made."""

    number: int
    started_at: float
    started: float
    status: int | None = None
    bytes_down: int = 0
    request_id: str | None = None
    retry_after: float | None = None
    replayed: bool = False


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
        api_key: SecretStr | str | None = None,
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
        self._api_key = SecretStr(api_key) if isinstance(api_key, str) else api_key
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
        except FailedAttempt as failed:
            raise failed.error from failed.__cause__
        raise AssertionError("tenacity ends by returning or raising")

    def _attempt(self, call: Call, parse: Callable[[Reply], T], number: int, deadline: float) -> T:
        """Try once, and tell the hook."""
        draft = _Draft(number=number, started_at=self._wall_clock(), started=self._clock())
        try:
            value = self._exchange(call, parse, draft, deadline)
        except FailedAttempt as failed:
            failed.retry_after = draft.retry_after
            self._tell(call, draft, error=failed.kind, effect=failed.effect)
            raise
        self.answered = True
        self._tell(call, draft, error=None, effect="done")
        return value

    def _exchange(self, call: Call, parse: Callable[[Reply], T], draft: _Draft, deadline: float) -> T:
        """Send, receive and parse, with every failure turned into a `FailedAttempt` by one table."""
        try:
            with self._client.stream(
                call.method,
                self.url + call.path,
                content=call.body,
                headers=self._headers(call),
                params=call.query,
                timeout=timeouts(self._options, deadline - self._clock()),
            ) as response:
                self._read_head(response, draft)
                reply = self._read_body(response, call, draft, deadline)
            return parse(reply)
        except httpx.HTTPError as error:
            raise wire_failure(error, self.url) from error
        except ProblemInReply as refused:
            raise refusal(refused.problem.status, refused.problem) from None
        except (ProtocolError, WireError) as error:
            raise malformed_reply(error) from error

    def _headers(self, call: Call) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        if call.idempotency_key is not None:
            headers[IDEMPOTENCY_KEY_HEADER] = call.idempotency_key
        if self._api_key is not None:
            headers["Authorization"] = f"Bearer {self._api_key.get_secret_value()}"
        return headers | dict(call.headers)

    def _read_head(self, response: httpx.Response, draft: _Draft) -> None:
        headers = response.headers
        draft.status = response.status_code
        draft.request_id = printable(headers.get(REQUEST_ID_HEADER, ""), 80) or None
        draft.replayed = headers.get(REPLAYED_HEADER, "").lower() == "true"
        if not response.is_success:
            now = datetime.fromtimestamp(self._wall_clock(), tz=UTC)
            draft.retry_after = requested_wait(_lower(headers), now)

    def _read_body(self, response: httpx.Response, call: Call, draft: _Draft, deadline: float) -> Reply:
        """Return the reply of a 2xx response; anything else is a failed attempt."""
        limit = call.max_reply_bytes if response.is_success else MAX_PROBLEM_BYTES
        body = bytearray()
        for chunk in self._chunks(response, deadline):
            body += chunk
            draft.bytes_down = len(body)
            if len(body) > limit:
                raise ProtocolError(f"the host's reply is longer than the {limit} bytes it can have")
        if not response.is_success:
            status = response.status_code
            raise refusal(status, parse_problem(status, bytes(body)), call.effects)
        return Reply(response.status_code, _lower(response.headers), bytes(body))

    def _chunks(self, response: httpx.Response, deadline: float) -> Iterator[bytes]:
        """Yield the body as it comes; a compressed one was not asked for and could be a bomb."""
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ProtocolError("the host compressed a reply that was asked for plain")
        for chunk in response.iter_bytes():
            if self._clock() >= deadline:
                raise httpx.ReadTimeout("the reply was not whole by the deadline")
            yield chunk

    def _tell(self, call: Call, draft: _Draft, *, error: str | None, effect: Effect) -> None:
        if self._on_attempt is None:
            return
        attempt = Attempt(
            number=draft.number,
            idempotency_key=call.idempotency_key,
            method=call.method,
            path=call.path,
            started_at=draft.started_at,
            latency=self._clock() - draft.started,
            status=draft.status,
            error=error,
            effect=effect,
            bytes_up=len(call.body or b""),
            bytes_down=draft.bytes_down,
            request_id=draft.request_id,
            retry_after=draft.retry_after,
            replayed=draft.replayed,
        )
        self._on_attempt(attempt)


def _lower(headers: httpx.Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _failure(state: tenacity.RetryCallState) -> FailedAttempt:
    assert state.outcome is not None
    failed = state.outcome.exception()
    assert isinstance(failed, FailedAttempt)
    return failed


def _worth_retrying(error: BaseException, call: Call, policy: RetryPolicy, counts: dict[str, int]) -> bool:
    if not isinstance(error, FailedAttempt) or not error.retryable:
        return False
    if error.effect != "none" and not call.idempotent:
        return False
    if error.kind in counts:
        counts[error.kind] += 1
    unreachable = policy.max_unreachable is not None and counts["connect"] >= policy.max_unreachable
    return not unreachable and counts["malformed"] < policy.max_malformed
