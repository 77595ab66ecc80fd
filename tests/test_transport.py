"""One attempt on the wire, and the one layer that repeats it."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from blackbox_ti.attempt import Attempt, Call, Reply
from blackbox_ti.errors import (
    AuthError,
    BudgetSpentError,
    ConnectError,
    OverloadedError,
    ProtocolError,
    RejectedError,
)
from blackbox_ti.problems import ProblemInReply
from blackbox_ti.retry import RetryPolicy
from blackbox_ti.transport import Transport
from blackbox_ti.wire import Problem

POST = Call(method="POST", path="/v1/loss", body=b'{"a":1}', idempotency_key="key-1")


class Wire:
    """A scripted host: each request takes the next step of the script, a response or an exception."""

    def __init__(self, *script: httpx.Response | Exception, **options: Any) -> None:
        self.script = list(script)
        self.requests: list[httpx.Request] = []
        self.attempts: list[Attempt] = []
        self.waits: list[float] = []
        self.now = 1000.0
        self.transport = Transport(
            "http://127.0.0.1:9",
            http=httpx.MockTransport(self._answer),
            on_attempt=self.attempts.append,
            rng=np.random.default_rng(0),
            sleep=self._sleep,
            clock=lambda: self.now,
            wall_clock=lambda: 1_700_000_000.0 + self.now,
            **options,
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        return step

    def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def send(self, call: Call = POST, parse: Callable[[Reply], Any] = lambda reply: reply.body) -> Any:
        """Send a call over the scripted wire."""
        return self.transport.send(call, parse)


def refusal(status: int, code: str | None = None, **headers: str) -> httpx.Response:
    """Return a refusal, as a problem where it has a code."""
    body = b"" if code is None else json.dumps({"status": status, "code": code, "detail": "why"}).encode()
    return httpx.Response(status, content=body, headers={k.replace("_", "-"): v for k, v in headers.items()})


OK = httpx.Response(200, content=b"fine", headers={"X-Request-Id": "r-7"})


def test_an_answer_is_one_attempt() -> None:
    """A call that works is one request and one attempt with all that is known of it."""
    wire = Wire(OK)
    assert wire.send() == b"fine"
    (attempt,) = wire.attempts
    assert (attempt.number, attempt.idempotency_key, attempt.status, attempt.error, attempt.effect) == (
        1,
        "key-1",
        200,
        None,
        "done",
    )
    assert (attempt.bytes_up, attempt.bytes_down, attempt.request_id) == (7, 4, "r-7")


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.ReadTimeout("slow"),
        httpx.WriteTimeout("slow"),
        httpx.PoolTimeout("busy"),
        httpx.ReadError("reset"),
        httpx.WriteError("broken pipe"),
        httpx.RemoteProtocolError("incomplete"),
        *(refusal(status) for status in (408, 425, 429, 500, 502, 503, 504)),
        refusal(409, "idempotency_key_in_flight"),
        refusal(503, "not_ready"),
    ],
    ids=lambda failure: str(getattr(failure, "status_code", type(failure).__name__)),
)
def test_failures_that_may_pass_are_tried_again_with_the_same_bytes_and_key(
    failure: httpx.Response | Exception,
) -> None:
    """Every retry is the same request to the last byte, under the same key."""
    wire = Wire(failure, failure, OK)
    assert wire.send() == b"fine"
    assert [a.number for a in wire.attempts] == [1, 2, 3]
    assert {(r.content, r.headers["Idempotency-Key"], r.url.path) for r in wire.requests} == {
        (b'{"a":1}', "key-1", "/v1/loss")
    }


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (refusal(429, "budget_spent"), BudgetSpentError),
        (refusal(402, "budget_spent"), BudgetSpentError),
        (refusal(501), RejectedError),
        (refusal(505), RejectedError),
        (refusal(400, "invalid_request"), RejectedError),
        (refusal(422, "idempotency_key_reused"), RejectedError),
        (refusal(409, "invalid_request"), RejectedError),
        (refusal(401), AuthError),
        (refusal(404), ProtocolError),
        (refusal(307, Location="http://elsewhere"), ProtocolError),
    ],
)
def test_failures_that_cannot_pass_are_raised_at_once(failure: httpx.Response, kind: type[Exception]) -> None:
    """What asking again cannot mend is asked once."""
    wire = Wire(failure)
    with pytest.raises(kind):
        wire.send()
    assert len(wire.requests) == 1


def test_the_last_error_is_raised_when_patience_ends() -> None:
    """The total deadline bounds waiting, and no wait is begun that would pass it."""
    wire = Wire(refusal(503), policy=RetryPolicy(deadline=60.0))
    with pytest.raises(OverloadedError):
        wire.send()
    assert sum(wire.waits) < 60.0
    assert len(wire.requests) > 3


def test_a_host_that_asks_for_longer_than_the_deadline_is_given_up() -> None:
    """Waiting for a reply that cannot come in time is not begun."""
    wire = Wire(refusal(503, retry_after="100"), policy=RetryPolicy(deadline=60.0))
    with pytest.raises(OverloadedError):
        wire.send()
    assert wire.waits == []


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry_after": "5"}, 5.0, 5.5),
        ({"retry_after_ms": "5000"}, 5.0, 5.5),
        ({"retry_after": "Tue, 14 Nov 2023 22:30:05 GMT"}, 5.0, 5.5),
        ({"ratelimit_reset": "5", "ratelimit_remaining": "0"}, 5.0, 5.5),
        ({"retry_after": "86400"}, 120.0, 120.5),
    ],
)
def test_a_hosts_wish_is_waited_for_and_capped(headers: dict[str, str], least: float, most: float) -> None:
    """Retry-After in each of its forms is a lower bound, with jitter on top, up to the cap."""
    wire = Wire(refusal(429, **headers), OK)
    wire.now = 0.0
    if "GMT" in headers.get("retry_after", ""):
        wire.now = 1699997400.0 + 3600.0 - 1_700_000_000.0
    wire.send()
    assert least <= wire.waits[0] <= most
    assert wire.attempts[0].retry_after is not None


def test_malformed_replies_are_tried_again_a_few_times() -> None:
    """A reply that does not parse is asked for again, but a host that never speaks the protocol is given up soon."""
    replies = iter([b"garbage", b"fine"])

    def parse(reply: Reply) -> bytes:
        if next(replies, b"garbage") == b"garbage":
            raise ProtocolError("not the protocol")
        return b"parsed"

    wire = Wire(OK)
    assert wire.send(parse=parse) == b"parsed"
    with pytest.raises(ProtocolError, match="not the protocol"):
        wire.send(parse=parse)
    assert [a.error for a in wire.attempts] == ["malformed", None] + ["malformed"] * RetryPolicy().max_malformed


def test_an_oversized_reply_is_cut_off_while_it_streams() -> None:
    """No more is read than the reply can have."""
    read = 0

    def flood() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 65_536
            yield b"x" * 65_536

    wire = Wire(OK)
    wire.script = [httpx.Response(200, content=flood()) for _ in range(6)]
    with pytest.raises(ProtocolError, match="longer than"):
        wire.send(Call(method="GET", path="/v1/model", max_reply_bytes=200_000))
    assert read <= 6 * (200_000 + 2 * 65_536)


def test_a_compressed_reply_is_refused_before_it_is_unpacked() -> None:
    """A compressed reply was not asked for and could be a bomb."""
    wire = Wire(OK)
    wire.script = [httpx.Response(200, stream=httpx.ByteStream(b"\x1f\x8b"), headers={"Content-Encoding": "gzip"})]
    with pytest.raises(ProtocolError, match="compressed"):
        wire.send()


def test_a_reply_that_trickles_past_the_deadline_is_given_up() -> None:
    """Bytes that keep coming do not keep a call alive for ever."""
    wire = Wire(OK, policy=RetryPolicy(deadline=30.0))

    def trickle() -> Iterator[bytes]:
        while True:
            wire.now += 1.0
            yield b"x"

    wire.script = [httpx.Response(200, content=trickle())]
    with pytest.raises(OverloadedError):
        wire.send()


@pytest.mark.parametrize(
    ("failure", "effect"),
    [
        (httpx.ConnectError("x"), "none"),
        (httpx.PoolTimeout("x"), "none"),
        (httpx.ReadTimeout("x"), "unknown"),
        (httpx.ReadError("x"), "unknown"),
        (refusal(429, "rate_limited"), "none"),
        (refusal(400, "invalid_request"), "none"),
        (refusal(409, "idempotency_key_in_flight"), "unknown"),
        (refusal(408), "unknown"),
        (refusal(500), "unknown"),
        (refusal(502), "unknown"),
        (refusal(503, "overloaded"), "unknown"),
    ],
)
def test_an_attempt_says_whether_the_host_can_have_acted(failure: httpx.Response | Exception, effect: str) -> None:
    """Only what certainly never reached the host, or what it refused, is told as without effect."""
    wire = Wire(failure, OK)
    with contextlib.suppress(RejectedError):
        wire.send()
    assert wire.attempts[0].effect == effect
    assert [a.effect for a in wire.attempts[1:]] in ([], ["done"])


def test_a_call_that_is_not_idempotent_is_tried_again_only_where_it_had_no_effect() -> None:
    """What may have been acted on is not repeated unless repeating is harmless."""
    once = Call(method="POST", path="/x", body=b"", idempotent=False)
    assert Wire(httpx.ConnectError("x"), OK).send(once) == b"fine"
    wire = Wire(httpx.ReadTimeout("x"), OK)
    with pytest.raises(OverloadedError):
        wire.send(once)
    assert len(wire.requests) == 1


def test_a_status_tells_what_the_call_says_it_tells() -> None:
    """A proxy that starts its model answers 503 without acting; its 400 may come after the work."""
    starting = Call(method="POST", path="/", body=b"", idempotent=False, effects={503: "none", 400: "unknown"})
    wire = Wire(refusal(503), refusal(503, Retry_After="7"), OK)
    assert wire.send(starting) == b"fine"
    assert [a.effect for a in wire.attempts] == ["none", "none", "done"]
    wire = Wire(refusal(400), OK)
    with pytest.raises(RejectedError):
        wire.send(starting)
    assert [a.effect for a in wire.attempts] == ["unknown"]


def test_a_refusal_inside_a_reply_is_a_refusal() -> None:
    """Its own status decides whether it is tried again and what it becomes, not the 200 it came with."""

    def parse(reply: Reply) -> bytes:
        if reply.body != b"fine":
            raise ProblemInReply(Problem.model_validate_json(reply.body))
        return reply.body

    def inside(status: int, code: str) -> httpx.Response:
        return httpx.Response(200, content=refusal(status, code).content)

    wire = Wire(inside(503, "overloaded"), OK)
    assert wire.send(parse=parse) == b"fine"
    assert (wire.attempts[0].error, wire.attempts[0].status) == ("overloaded", 200)
    wire = Wire(inside(404, "concept_not_found"), OK)
    with pytest.raises(RejectedError) as caught:
        wire.send(parse=parse)
    assert caught.value.problem is not None
    assert caught.value.problem.code == "concept_not_found"
    assert [(a.error, a.effect) for a in wire.attempts] == [("concept_not_found", "none")]


def test_unreachable_hosts_can_be_given_up_early() -> None:
    """A bound on attempts that reach no host ends a wrong address soon."""
    wire = Wire(httpx.ConnectError("refused"), policy=RetryPolicy(max_unreachable=3))
    with pytest.raises(ConnectError, match="no host answers"):
        wire.send()
    assert len(wire.requests) == 3


def test_jitter_is_drawn_from_the_generator_given() -> None:
    """Two transports with equal generators wait equally."""
    waits = []
    for _ in range(2):
        wire = Wire(*[refusal(503)] * 5, OK)
        wire.send()
        waits.append(wire.waits)
    assert waits[0] == waits[1]
    assert len(set(waits[0])) == 5


def test_the_key_is_in_the_request_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    """A planted key reaches the host and no log, error or repr on the way."""
    planted = "planted-5f2c9d"
    caplog.set_level(logging.DEBUG)
    wire = Wire(refusal(500), refusal(401, "unauthenticated"), api_key=SecretStr(planted))
    with pytest.raises(AuthError) as caught:
        wire.send()
    assert wire.requests[0].headers["Authorization"] == f"Bearer {planted}"
    seen = [caplog.text, repr(caught.value), str(caught.value), repr(vars(wire.transport)), repr(wire.attempts)]
    assert not any(planted in text for text in seen)


def test_a_closed_port_is_a_connect_error() -> None:
    """Over real sockets, a port nobody listens on is told as no host."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    transport = Transport(f"http://127.0.0.1:{port}", policy=RetryPolicy(max_unreachable=2), sleep=lambda _: None)
    with pytest.raises(ConnectError):
        transport.send(POST, lambda reply: reply.body)
    transport.close()


def test_a_port_that_speaks_something_else_is_a_protocol_error() -> None:
    """Over real sockets, a banner that is not HTTP is told as such."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def banner() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(65_536)
                    client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=banner, daemon=True).start()
        port = server.getsockname()[1]
        transport = Transport(f"http://127.0.0.1:{port}", policy=RetryPolicy(max_malformed=2), sleep=lambda _: None)
        with pytest.raises(ProtocolError, match="not HTTP"):
            transport.send(POST, lambda reply: reply.body)
        transport.close()
        server.shutdown(socket.SHUT_RDWR)


def test_a_host_that_never_answers_is_given_up_at_the_deadline() -> None:
    """Over real sockets, silence ends with the deadline, however patient the read timeout is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        transport = Transport(f"http://127.0.0.1:{port}", policy=RetryPolicy(deadline=0.3))
        with pytest.raises(OverloadedError, match="in time"):
            transport.send(POST, lambda reply: reply.body)
        transport.close()
