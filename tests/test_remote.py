"""What endpoints with an address have in common."""

from __future__ import annotations

import inspect
import itertools
from typing import Unpack, get_args, get_origin, get_type_hints

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from blackbox_ti.attempt import Attempt, Call
from blackbox_ti.errors import AuthError, ConnectError, EndpointError, ProtocolError, RejectedError, WireError
from blackbox_ti.hf_endpoint import HfEndpoint
from blackbox_ti.http_endpoint import HttpEndpoint
from blackbox_ti.oip_endpoint import OipEndpoint
from blackbox_ti.remote import Remote, TransportArguments, check_version, key_or_fresh, told_as
from blackbox_ti.retry import RetryPolicy
from blackbox_ti.transport import Transport
from blackbox_ti.wire import ModelCard, Problem
from tests.fake_host import FakeHost

URL = "http://127.0.0.1:9"


class Place(Remote[str]):
    """A host that is known by the body of its answer."""

    def describe(self) -> ModelCard:
        """Ask, as one does who may have the wrong address."""
        call = Call(method="GET", path="/who")
        self._learned = self._transport.send(call, lambda reply: reply.body.decode(), policy=self._patience())
        return FakeHost().card

    def known(self) -> str:
        """Return what is known of it."""
        return self._known()


class Wire(httpx.BaseTransport):
    """Answers by a script of bodies, statuses or failures, the last of them for ever; `closed` once let go."""

    def __init__(self, *script: str | int | Exception) -> None:
        self.script = list(script)
        self.requests: list[httpx.Request] = []
        self.closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Take the script's next step."""
        self.requests.append(request)
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        return httpx.Response(step) if isinstance(step, int) else httpx.Response(200, text=step)

    def close(self) -> None:
        """Note it."""
        self.closed = True


def _place(*script: str | int | Exception, **arguments: Unpack[TransportArguments]) -> tuple[Place, Wire]:
    wire = Wire(*script)
    clock = itertools.count(0.0, 10.0)  # patience ends, whatever is waited for
    made: TransportArguments = {"http": wire, "sleep": lambda _: None, "clock": lambda: next(clock), **arguments}
    return Place(URL + "/", **made), wire


def test_a_host_is_asked_once_what_it_is() -> None:
    """What is learned is kept until somebody asks afresh."""
    place, wire = _place("first", "second")
    assert [place.known(), place.known()] == ["first", "first"]
    place.describe()
    assert place.known() == "second"
    assert len(wire.requests) == 2


def test_an_address_is_kept_and_connections_are_let_go() -> None:
    """Without its trailing slash; closing reaches the sockets."""
    place, wire = _place("x")
    assert place.url == URL
    place.close()
    assert wire.closed


@pytest.mark.parametrize("failure", [httpx.ConnectError("refused"), httpx.RemoteProtocolError("garbage")])
def test_a_wrong_address_is_found_out_soon(failure: Exception) -> None:
    """Three tries are all that a host gets which never answered."""
    place, wire = _place(failure)
    with pytest.raises(EndpointError):
        place.describe()
    assert len(wire.requests) == 3


def test_a_host_that_answered_once_is_waited_for() -> None:
    """Then the caller's own policy holds."""
    place, wire = _place("here", *[httpx.ConnectError("restarting")] * 9, "back")
    place.describe()
    place.describe()
    assert place.known() == "back"
    assert len(wire.requests) == 11


def test_the_callers_policy_bounds_the_first_tries_too() -> None:
    """Its deadline is not lengthened."""
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += max(seconds, 100.0)

    policy = RetryPolicy(deadline=50.0)
    place, wire = _place(httpx.ConnectError("x"), policy=policy, sleep=sleep, clock=lambda: clock[0])
    with pytest.raises(ConnectError):
        place.describe()
    assert len(wire.requests) == 2


@pytest.mark.parametrize("key", ["planted-9a31", SecretStr("planted-9a31")])
def test_every_argument_reaches_the_transport(key: str | SecretStr) -> None:
    """The key as text or as a secret, the hook, and the rest; the key is in nothing printed."""
    attempts: list[Attempt] = []
    waits: list[float] = []
    place, wire = _place(503, "x", api_key=key, on_attempt=attempts.append, sleep=waits.append)
    place.describe()
    assert wire.requests[0].headers["Authorization"] == "Bearer planted-9a31"
    assert [a.status for a in attempts] == [503, 200]
    assert len(waits) == 1
    assert "planted" not in repr(vars(place)) + repr(vars(vars(place)["_transport"]))


def test_jitter_comes_from_the_generator_given() -> None:
    """Equal generators wait equally."""

    def waits(seed: int) -> list[float]:
        slept: list[float] = []
        _place(*[503] * 4, "x", rng=np.random.default_rng(seed), sleep=slept.append)[0].describe()
        return slept

    assert waits(1) == waits(1) != waits(2)


def test_the_arguments_are_the_transports_own() -> None:
    """Each is one of `Transport`'s, of the same type, so that none can drift away from it."""
    theirs = get_type_hints(Transport.__init__)
    assert {name: theirs[name] for name in TransportArguments.__annotations__} == get_type_hints(TransportArguments)


@pytest.mark.parametrize("kind", [HttpEndpoint, HfEndpoint, OipEndpoint])
def test_every_endpoint_with_an_address_takes_them(kind: type[Remote[object]]) -> None:
    """By keyword, typed for whoever calls; a word that is none of them is refused."""
    hint = inspect.signature(kind.__init__, eval_str=True).parameters["transport"].annotation
    assert get_origin(hint) is Unpack
    assert get_args(hint) == (TransportArguments,)
    arguments: dict[str, object] = {"http": Wire("x"), "apikey": "typo"}
    with pytest.raises(TypeError, match="apikey"):
        kind(URL, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [ProtocolError("odd"), RejectedError("odd"), WireError("odd")])
def test_whoever_cannot_introduce_itself_is_told_as_a_stranger(error: Exception) -> None:
    """One error with the cause in brackets, and the host's own account of it where it gave one."""
    problem = Problem(status=404, code="not_found")
    if isinstance(error, EndpointError):
        error.problem = problem
    with pytest.raises(ProtocolError, match=r"^a stranger \(odd\)$") as caught, told_as("a stranger"):
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.problem is (problem if isinstance(error, EndpointError) else None)


@pytest.mark.parametrize("error", [AuthError("key"), ConnectError("nobody")])
def test_a_wrong_key_or_nobody_there_is_no_stranger(error: Exception) -> None:
    """They stay what they are."""
    with pytest.raises(type(error)), told_as("a stranger"):
        raise error


def test_another_version_is_refused() -> None:
    """A host of another version is not guessed at."""
    card = FakeHost().card
    check_version(card, URL)
    with pytest.raises(ProtocolError, match=r"9 speaks another version .* than 1$"):
        check_version(card.model_copy(update={"protocol_version": "2"}), URL)


def test_a_call_without_a_key_gets_one_of_its_own() -> None:
    """A key that was given stays, even an empty one."""
    assert key_or_fresh("mine") == "mine"
    assert key_or_fresh("") == ""
    assert len({key_or_fresh(None) for _ in range(100)}) == 100
