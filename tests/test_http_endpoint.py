"""The endpoint over HTTP, against a host without a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_ti.attempt import Attempt
from blackbox_ti.errors import (
    AuthError,
    BudgetSpentError,
    ConnectError,
    EndpointError,
    ProtocolError,
    RejectedError,
    WireError,
)
from blackbox_ti.replies import canonical_bytes
from blackbox_ti.wire import ImageItem, ImagesRequest, decode_tensor, encode_tensor
from tests.fake_host import FakeHost, fake_endpoint, loss_request, png


def tampered(
    host: FakeHost, path: str, change: Callable[[dict[str, Any]], None], *, times: int = 100
) -> httpx.BaseTransport:
    """Return a way to `host` on which the first `times` replies of `path` are changed."""
    left = [times]

    def answer(request: httpx.Request) -> httpx.Response:
        response = host.handle(request)
        if request.url.path != path or left[0] == 0:
            return response
        left[0] -= 1
        body = json.loads(response.content)
        change(body)
        return httpx.Response(response.status_code, content=json.dumps(body).encode())

    return httpx.MockTransport(answer)


def constant(status: int, content: bytes, **headers: str) -> httpx.BaseTransport:
    """Return a way to something that always answers the same."""
    return httpx.MockTransport(lambda _: httpx.Response(status, content=content, headers=headers))


def test_the_whole_protocol_works() -> None:
    """Describe, register, score, draw, read the vocabulary, the usage and the receipts, and delete."""
    host = FakeHost()
    endpoint = fake_endpoint(host)
    assert endpoint.describe() == host.card
    concept = endpoint.register_concept([png(), png((0, 0, 9))])
    request = loss_request(concept, np.zeros((3, 1, 8), np.float32), samples=4)
    reply = endpoint.losses(request, label="search/0")
    assert reply.losses is not None
    expected = [[host.loss(np.zeros((1, 8), np.float32), s) for s in request.samples]] * 3
    np.testing.assert_allclose(decode_tensor(reply.losses), expected, rtol=1e-6)
    items = [ImageItem(candidate=0, prompt=0, seed=s) for s in range(2)]
    pictures = endpoint.images(
        ImagesRequest(placeholder_token="<sks>", embeddings=request.embeddings, prompts=["x"], items=items),
        label="pictures",
    )
    assert len(pictures.images) == 2
    vocabulary = endpoint.vocabulary("text")
    assert vocabulary is not None
    assert tuple(vocabulary.tokens) == host.words
    np.testing.assert_array_equal(vocabulary.embeddings, host.table)
    assert endpoint.usage().forwards == host.forwards == 12 + 2 * 25 * 2
    assert endpoint.receipts() == host.receipts
    endpoint.delete_concept(concept)
    assert host.concepts == {}
    endpoint.close()


def test_receipts_come_page_by_page() -> None:
    """All receipts are fetched, however the host cuts its pages."""
    host = FakeHost()
    endpoint = fake_endpoint(host)
    concept = endpoint.register_concept([png()])
    for n in range(13):
        endpoint.losses(loss_request(concept, np.zeros((1, 1, 8)), samples=1, seed=n), label="x")
    assert [r.sequence for r in endpoint.receipts()] == list(range(1, 14))


def test_receipts_that_never_end_are_a_protocol_error() -> None:
    """A host that sends the same page for ever is given up."""
    way = tampered(FakeHost(), "/v1/receipts", lambda body: body.update(next_after=0))
    with pytest.raises(ProtocolError, match="end"):
        fake_endpoint(http=way).receipts()


def test_a_request_is_sent_as_canonical_bytes_under_the_key_given() -> None:
    """The host's hash of the request is the hash of the canonical bytes, the key the caller's."""
    host = FakeHost()
    endpoint = fake_endpoint(host)
    request = loss_request(endpoint.register_concept([png()]), np.zeros((1, 1, 8)))
    first = endpoint.losses(request, label="x", key="mine")
    assert endpoint.losses(request, label="x", key="mine") == first
    assert [r.idempotency_key for r in host.receipts] == ["mine"]
    assert host.stored["mine"][0] == hashlib.sha256(canonical_bytes(request)).hexdigest()


def test_without_a_key_each_call_has_its_own() -> None:
    """Two calls without keys are two operations."""
    host = FakeHost()
    endpoint = fake_endpoint(host)
    request = loss_request(endpoint.register_concept([png()]), np.zeros((1, 1, 8)))
    for _ in range(2):
        endpoint.losses(request, label="x")
    assert len({r.idempotency_key for r in host.receipts}) == 2


@pytest.mark.parametrize("mode", ["exact", "rank"])
def test_a_candidate_rejected_alone_costs_nothing_and_harms_nobody(mode: str) -> None:
    """The neighbours of a bad candidate get their losses and are all that is charged."""
    host = FakeHost(max_norm=5.0, reply_mode=mode)
    endpoint = fake_endpoint(host)
    embeddings = np.zeros((3, 1, 8), np.float32)
    embeddings[1] = 100.0
    reply = endpoint.losses(loss_request(endpoint.register_concept([png()]), embeddings), label="x")
    assert reply.candidates == [0, 2]
    assert [r.candidate for r in reply.rejected] == [1]
    assert reply.charge.forwards == 8
    assert (reply.ranking is not None) == (mode == "rank")


@pytest.mark.parametrize(
    "way",
    [
        constant(200, b"<html>hello</html>", **{"Content-Type": "text/html"}),
        constant(200, b'{"hello": 1}'),
        constant(200, b""),
        constant(404, b"not found"),
        constant(302, b"", Location="http://elsewhere"),
        constant(405, b""),
        constant(204, b""),
    ],
)
def test_something_else_at_the_address_is_told_as_such(way: httpx.BaseTransport) -> None:
    """Whatever else answers there, the message says that it is no endpoint of this protocol."""
    with pytest.raises(ProtocolError, match="not a Blackbox TI endpoint"):
        fake_endpoint(http=way).describe()


def test_another_version_of_the_protocol_is_a_protocol_error() -> None:
    """A host of another version is not guessed at."""
    way = tampered(FakeHost(), "/v1/model", lambda body: body.update(protocol_version="2"))
    with pytest.raises(ProtocolError, match="version"):
        fake_endpoint(http=way).describe()


def test_nobody_there_is_a_connect_error_after_three_tries() -> None:
    """A wrong address is found out soon."""
    tries: list[Attempt] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ConnectError, match="no host answers"):
        fake_endpoint(http=httpx.MockTransport(refuse), on_attempt=tries.append).describe()
    assert len(tries) == 3


def test_a_host_that_was_there_is_waited_for() -> None:
    """A host that answered before and is being restarted is no wrong address."""
    host = FakeHost()
    down = [0]

    def answer(request: httpx.Request) -> httpx.Response:
        if down[0] > 0:
            down[0] -= 1
            raise httpx.ConnectError("refused")
        return host.handle(request)

    endpoint = fake_endpoint(http=httpx.MockTransport(answer))
    endpoint.usage()
    down[0] = 10
    assert endpoint.describe() == host.card


def test_a_wrong_key_is_an_auth_error() -> None:
    """A host that does not know the key is told apart from one that is not ours."""
    with pytest.raises(AuthError):
        fake_endpoint(FakeHost(api_key="right"), api_key="wrong").describe()
    assert fake_endpoint(FakeHost(api_key="right"), api_key="right").describe()


def test_a_spent_budget_is_its_own_error_and_asked_once() -> None:
    """The account's spent budget is not retried."""
    host = FakeHost(max_forwards=5)
    endpoint = fake_endpoint(host)
    concept = endpoint.register_concept([png()])
    with pytest.raises(BudgetSpentError):
        endpoint.losses(loss_request(concept, np.zeros((2, 1, 8))), label="x")
    assert host.requests.count(("POST", "/v1/loss")) == 1


def test_a_host_without_a_vocabulary_gives_none() -> None:
    """A table that is not offered is None, and so is one that the key may not see."""
    assert fake_endpoint(FakeHost(vocabulary=False)).vocabulary("text") is None
    host = FakeHost()
    forbidden = json.dumps({"status": 403, "code": "forbidden", "detail": "no"}).encode()

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403, content=forbidden) if "vocabulary" in request.url.path else host.handle(request)

    assert fake_endpoint(http=httpx.MockTransport(answer)).vocabulary("text") is None


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 1},
        {"total": 5},
        {"total": 10**9},
        {"tokens": []},
        {"tokens": ["a"] * 11},
        {"encoder": "other"},
        {"embeddings": encode_tensor(np.zeros((4, 7))).model_dump()},
        {"embeddings": encode_tensor(np.full((4, 8), np.nan)).model_dump()},
    ],
)
def test_a_vocabulary_that_does_not_fit_is_a_protocol_error(change: dict[str, Any]) -> None:
    """Pages that do not follow each other, and rows that are not finite embeddings of the model, are refused."""
    way = tampered(FakeHost(), "/v1/vocabulary", lambda body: body.update(change) if body["offset"] == 4 else None)
    with pytest.raises(ProtocolError):
        fake_endpoint(http=way).vocabulary("text")


def double_charge(body: dict[str, Any]) -> None:
    """Charge twice the forwards."""
    body["charge"]["forwards"] *= 2


def test_a_reply_that_does_not_fit_is_asked_for_again_and_charged_once() -> None:
    """One bad reply is mended by the next, which is the replay of the same charge."""
    host = FakeHost()
    endpoint = fake_endpoint(http=tampered(host, "/v1/loss", double_charge, times=2))
    reply = endpoint.losses(loss_request(endpoint.register_concept([png()]), np.zeros((2, 1, 8))), label="x")
    assert reply.charge.forwards == 8 == host.forwards


def test_a_host_that_goes_on_overcharging_is_a_protocol_error() -> None:
    """No reply that claims more than the exact cost is ever accepted."""
    endpoint = fake_endpoint(http=tampered(FakeHost(), "/v1/loss", double_charge))
    request = loss_request(endpoint.register_concept([png()]), np.zeros((2, 1, 8)))
    with pytest.raises(ProtocolError, match="charged"):
        endpoint.losses(request, label="x")


def test_a_reply_to_another_request_is_a_protocol_error() -> None:
    """A stale or crossed reply is known by its receipt."""
    host = FakeHost()
    endpoint = fake_endpoint(host)
    concept = endpoint.register_concept([png()])
    endpoint.losses(loss_request(concept, np.zeros((2, 1, 8))), label="x", key="other")
    crossed = tampered(host, "/v1/loss", lambda body: body.update(json.loads(host.stored["other"][1])))
    with pytest.raises(ProtocolError, match="receipt"):
        fake_endpoint(http=crossed).losses(loss_request(concept, np.ones((2, 1, 8))), label="x")


def test_a_concept_registered_in_part_is_a_protocol_error() -> None:
    """A host that took fewer pictures than it was sent is not believed."""
    way = tampered(FakeHost(), "/v1/concepts", lambda body: body.update(images=1))
    with pytest.raises(ProtocolError, match="1 of 2"):
        fake_endpoint(http=way).register_concept([png(), png((1, 1, 1))])


def test_deleting_twice_is_no_error() -> None:
    """A concept that is gone already is as good as deleted; another refusal is an error."""
    gone = json.dumps({"status": 404, "code": "concept_not_found"}).encode()
    fake_endpoint(http=constant(404, gone)).delete_concept("x")
    other = json.dumps({"status": 400, "code": "invalid_request"}).encode()
    with pytest.raises(RejectedError):
        fake_endpoint(http=constant(400, other)).delete_concept("x")


def test_a_concepts_id_cannot_leave_its_path() -> None:
    """An id with slashes or dots in it stays one segment of the path."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(204)

    fake_endpoint(http=httpx.MockTransport(answer)).delete_concept("../../v1/usage?x#y")
    assert seen == ["/v1/concepts/..%2F..%2Fv1%2Fusage%3Fx%23y"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
PLACES = [
    ("candidates",),
    ("candidates", 0),
    ("losses",),
    ("losses", "dtype"),
    ("losses", "shape"),
    ("losses", "shape", 0),
    ("losses", "data"),
    ("ranking",),
    ("rejected",),
    ("charge",),
    ("charge", "forwards"),
    ("charge", "price_micros"),
    ("charge", "receipt"),
    ("charge", "receipt", "sequence"),
    ("charge", "receipt", "hash"),
]


@settings(max_examples=60)
@given(st.sampled_from(PLACES), JSON)
def test_a_reply_spoiled_anywhere_is_refused_or_says_the_same(place: tuple[str | int, ...], value: Any) -> None:
    """Whatever stands in any place of a reply, the caller gets the true losses at the true price or a typed error."""
    host = FakeHost()
    request = loss_request("c", np.zeros((2, 1, 8)))
    host.concepts["c"] = 1
    truth = fake_endpoint(host).losses(request, label="x", key="k")

    def spoil(body: dict[str, Any]) -> None:
        inner: Any = body
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = value

    try:
        reply = fake_endpoint(http=tampered(host, "/v1/loss", spoil)).losses(request, label="x", key="k")
    except (EndpointError, WireError):
        return
    assert (reply.candidates, reply.losses) == (truth.candidates, truth.losses)
    assert reply.charge.model_copy(update={"receipt": None}) == truth.charge.model_copy(update={"receipt": None})
