"""The endpoint of hosted handlers."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from blackbox_ti.attempt import Attempt
from blackbox_ti.endpoint import guarantees_of
from blackbox_ti.errors import AuthError, ConnectError, EndpointError, OverloadedError, ProtocolError, RejectedError
from blackbox_ti.hf_endpoint import HfEndpoint
from blackbox_ti.wire import ImageItem, ImagesRequest, LossRequest, decode_tensor, encode_tensor
from tests.fake_host import loss_request, png
from tests.hf_host import URL, HfHost, hf_endpoint

FORWARDS = 2 * 4


def _request(concept: str, seed: int = 0) -> LossRequest:
    embeddings = np.random.default_rng(seed).normal(size=(2, 1, 8)).astype(np.float32)
    return loss_request(concept, embeddings, samples=4)


def _pictures(seed: int = 1) -> ImagesRequest:
    embeddings = np.random.default_rng(seed).normal(size=(1, 1, 8)).astype(np.float32)
    return ImagesRequest(
        placeholder_token="<sks>",
        embeddings={"text": encode_tensor(embeddings)},
        prompts=["a photo of <sks>"],
        items=[ImageItem(candidate=0, prompt=0, seed=5)],
        num_inference_steps=3,
    )


def test_losses_pictures_and_words_come_through_checked() -> None:
    """The whole of an endpoint, over one POST route, and what was done is counted."""
    host = HfHost(vocabulary=True)
    endpoint = hf_endpoint(host)
    concept = endpoint.register_concept([png()])
    reply = endpoint.losses(_request(concept), label="search/1")
    assert reply.losses is not None
    assert decode_tensor(reply.losses).shape == (2, 4)
    assert len(endpoint.images(_pictures(), label="pictures").images) == 1
    words = endpoint.vocabulary("text")
    assert words is not None
    assert len(words.tokens) == len(words.embeddings) == 5
    assert endpoint.usage().forwards == host.worked == FORWARDS + 6
    assert all(set(body) == {"inputs", "parameters"} for body in host.bodies)


def test_no_vocabulary_is_none() -> None:
    """The host need not tell its words."""
    assert hf_endpoint(HfHost()).vocabulary("text") is None


def test_pictures_are_sent_again_only_when_the_host_lost_them() -> None:
    """After a restart the same request goes with the pictures in it, under the same key; the next goes without."""
    host = HfHost()
    endpoint = hf_endpoint(host)
    concept = endpoint.register_concept([png()])
    first = endpoint.losses(_request(concept), label="a")
    host.restart()
    host.bodies.clear()
    again = endpoint.losses(_request(concept), label="a", key="k")
    assert again.losses == first.losses
    assert [b["parameters"].get("pictures") is not None for b in host.bodies] == [False, True]
    assert [b["parameters"]["idempotency_key"] for b in host.bodies] == ["k", "k"]
    endpoint.losses(_request(concept, 1), label="a")
    assert "pictures" not in host.bodies[-1]["parameters"]


def test_a_concept_never_registered_here_is_refused() -> None:
    """There are no pictures to send."""
    endpoint = hf_endpoint(HfHost())
    with pytest.raises(RejectedError, match="concept"):
        endpoint.losses(_request("ab" * 32), label="a")


def test_a_host_that_starts_is_waited_for_and_nothing_counts_as_done() -> None:
    """The proxy's 503 is no attempt with an effect, its Retry-After is heeded, and the work is done once."""
    host = HfHost()
    attempts: list[Attempt] = []
    waits: list[float] = []
    endpoint = hf_endpoint(host, on_attempt=attempts.append, sleep=waits.append)
    concept = endpoint.register_concept([png()])
    host.script = [503, 503, 503, None]
    endpoint.losses(_request(concept), label="a", key="k")
    assert host.worked == FORWARDS
    charged = [a for a in attempts if a.idempotency_key == "k"]
    assert [a.effect for a in charged] == ["none", "none", "none", "done"]
    assert all(wait >= 3 for wait in waits)


@pytest.mark.parametrize(
    ("fate", "error"),
    [("dropped", ConnectError), (500, OverloadedError), (502, OverloadedError), (504, OverloadedError)],
)
def test_work_that_may_have_been_done_is_not_repeated(fate: str | int, error: type[EndpointError]) -> None:
    """One request goes out, and its outcome is told as unknown."""
    host = HfHost()
    attempts: list[Attempt] = []
    endpoint = hf_endpoint(host, on_attempt=attempts.append)
    concept = endpoint.register_concept([png()])
    host.script = [fate, None]
    with pytest.raises(error):
        endpoint.losses(_request(concept), label="a", key="k")
    assert [a.effect for a in attempts if a.idempotency_key == "k"] == ["unknown"]
    assert host.worked <= FORWARDS


def test_an_exception_of_the_web_service_may_come_after_the_work() -> None:
    """A bare 400 says nothing of what was done, a refusal by the handler does."""
    host = HfHost()
    attempts: list[Attempt] = []
    endpoint = hf_endpoint(host, on_attempt=attempts.append)
    concept = endpoint.register_concept([png()])
    host.script = ["400 after"]
    with pytest.raises(RejectedError, match="serialise"):
        endpoint.losses(_request(concept), label="a", key="k")
    assert attempts[-1].effect == "unknown"
    over = loss_request(concept, np.zeros((65, 1, 8), np.float32))
    with pytest.raises(RejectedError, match="limit_exceeded"):
        endpoint.losses(over, label="a", key="k2")
    assert [a.effect for a in attempts if a.idempotency_key == "k2"] == ["none"]


def test_a_token_is_sent_and_its_lack_is_an_auth_error() -> None:
    """As a bearer token, as everywhere."""
    host = HfHost(token="hf_secret")
    assert hf_endpoint(host, api_key="hf_secret").describe().model == "fake"
    with pytest.raises(AuthError):
        hf_endpoint(host).describe()


@pytest.mark.parametrize(
    "answer",
    [
        [{"label": "POSITIVE", "score": 0.99}],
        {"generated_text": "x"},
        {"reply": {}},
        {"reply": None},
        {"problem": {"status": 200, "code": "x"}},
        "text",
    ],
)
def test_other_models_are_told_apart(answer: Any) -> None:
    """What is no handler of ours is named as such after a few tries."""
    tries = []

    def reply(request: httpx.Request) -> httpx.Response:
        tries.append(request)
        return httpx.Response(200, json=answer)

    endpoint = HfEndpoint(URL, http=httpx.MockTransport(reply), sleep=lambda _: None)
    with pytest.raises(ProtocolError, match=r"handler\.py"):
        endpoint.describe()
    assert len(tries) == 3


def _spoiled(endpoint_host: HfHost, **change: Any) -> HfEndpoint:
    def handle(request: httpx.Request) -> httpx.Response:
        response = endpoint_host.handle(request)
        answer = response.json()
        if endpoint_host.bodies[-1]["parameters"]["task"] == "loss":
            answer["reply"] |= change
        return httpx.Response(200, json=answer)

    return HfEndpoint(URL, http=httpx.MockTransport(handle), sleep=lambda _: None)


@pytest.mark.parametrize(
    "change",
    [
        {"candidates": [0]},
        {"losses": None},
        {"charge": {"forwards": 1, "queries": 2, "price_micros": 0}},
        {"candidates": []},
    ],
)
def test_replies_are_checked_like_a_strangers(change: dict[str, Any]) -> None:
    """A reply that does not fit the question is refused, and asked for no second time."""
    host = HfHost()
    endpoint = _spoiled(host, **change)
    concept = endpoint.register_concept([png()])
    with pytest.raises(ProtocolError):
        endpoint.losses(_request(concept), label="a")
    assert sum(b["parameters"]["task"] == "loss" for b in host.bodies) == 1


def test_another_concept_than_the_one_sent_is_noticed() -> None:
    """The id is the digest of the pictures, which the client knows."""
    host = HfHost()

    def handle(request: httpx.Request) -> httpx.Response:
        answer = host.handle(request).json()
        answer["reply"]["concept"] = "00" * 32
        return httpx.Response(200, json=answer)

    with pytest.raises(ProtocolError, match="other pictures"):
        HfEndpoint(URL, http=httpx.MockTransport(handle), sleep=lambda _: None).register_concept([png()])


def test_it_says_what_it_cannot_guarantee() -> None:
    """Replicas come and go, the hour is billed, nothing is signed."""
    told = guarantees_of(hf_endpoint(HfHost()))
    assert (told.idempotency, told.exact_cost, told.receipts) == (False, False, False)


def test_deleting_twice_is_no_error() -> None:
    """A concept the replica does not have is as good as removed."""
    endpoint = hf_endpoint(HfHost())
    concept = endpoint.register_concept([png()])
    endpoint.delete_concept(concept)
    endpoint.delete_concept(concept)
