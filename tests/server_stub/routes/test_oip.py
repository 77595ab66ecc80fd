"""Tests of our server as a host of the Open Inference Protocol."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blackbox_ti.oip_codec import bytes_array, encode_tensors
from blackbox_ti.oip_wire import (
    HEADER_LENGTH_HEADER,
    InferRequest,
    ModelMetadata,
    encode_message,
)
from blackbox_ti.wire import LossReply, ModelCard, decode_tensor
from server_stub.accounts import Scope
from server_stub.concepts import decode_picture
from server_stub.spending import Budget, Period, set_budget
from tests.server_stub.fake_engine import DIM
from tests.server_stub.inferences import file, image_arrays, infer, loss_arrays, outputs_of
from tests.server_stub.served import Served, images_body, loss_body, served


@pytest.fixture
def app() -> Iterator[Served]:
    """Yield an app on the fake engine."""
    with served() as running:
        yield running


def expected(app: Served, body: dict[str, Any]) -> NDArray[np.float32]:
    """Return the losses that our own protocol gives."""
    reply = LossReply.model_validate_json(app.charged("/v1/loss", body).content)
    assert reply.losses is not None
    return decode_tensor(reply.losses)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_losses_are_the_same_bits_by_either_protocol(app: Served, binary: bool, version: str) -> None:
    """A concept's id as an input asks what `POST /v1/loss` asks, as JSON and as bytes, with a version and without."""
    concept = app.concept()
    arrays = loss_arrays(concept=bytes_array([concept.encode()]))
    outputs = outputs_of(infer(app, "loss", arrays, binary=binary, version=version))
    np.testing.assert_array_equal(outputs["losses"], expected(app, loss_body(concept)))
    np.testing.assert_array_equal(outputs["candidates"], [0, 1, 2])


@pytest.mark.parametrize(
    "shown", [bytes_array([file()]), np.full((1, 16, 16, 3), 100, np.uint8), np.full((1, 40, 40, 3), 100, np.uint8)]
)
@pytest.mark.parametrize("binary", [False, True])
def test_pictures_may_come_with_the_request(app: Served, shown: NDArray[Any], binary: bool) -> None:
    """As files or as pixels of any size they score as the same pictures registered; none is kept as a concept."""
    arrays = loss_arrays(concept=None, pictures=shown)
    outputs = outputs_of(infer(app, "loss", arrays, binary=binary))
    assert len(app.host.concepts) == 0
    np.testing.assert_array_equal(outputs["losses"], expected(app, loss_body(app.concept())))


def test_pictures_seen_before_are_not_encoded_again(app: Served) -> None:
    """The second request with the same pictures scores alone."""
    arrays = loss_arrays(concept=None, pictures=bytes_array([file()]))
    infer(app, "loss", arrays)
    calls = app.engine.calls
    infer(app, "loss", arrays)
    assert app.engine.calls == calls + 1


@pytest.mark.parametrize("binary", [False, True])
def test_pictures_are_the_same_bytes_by_either_protocol(app: Served, binary: bool) -> None:
    """The output holds the PNG files that `POST /v1/images` answers in base64."""
    outputs = outputs_of(infer(app, "images", image_arrays(), binary=binary))
    own = app.charged("/v1/images", images_body()).json()["images"]
    assert [base64.b64decode(image) for image in own] == list(outputs["images"])


def test_a_rejected_candidates_picture_has_no_bytes(app: Served) -> None:
    """Its neighbour's picture is there, and alone is charged."""
    values = np.ones((2, 1, DIM), np.float32)
    values[0] = 1e9
    reply = infer(app, "images", image_arrays(embeddings_text=values))
    images = outputs_of(reply)["images"]
    assert [bool(image) for image in images] == [False, True]
    assert reply.json()["parameters"]["forwards"] == 6
    assert json.loads(reply.json()["parameters"]["rejected"])[0]["code"] == "norm_exceeded"


def test_a_rejected_candidate_has_no_row(app: Served) -> None:
    """The output `candidates` says whose losses there are."""
    values = np.ones((3, 1, DIM), np.float32)
    values[1] = 1e9
    outputs = outputs_of(
        infer(app, "loss", loss_arrays(concept=bytes_array([app.concept().encode()]), embeddings_text=values))
    )
    assert outputs["losses"].shape == (2, 2)
    np.testing.assert_array_equal(outputs["candidates"], [0, 2])


def test_a_host_of_ranks_tells_ranks() -> None:
    """The output is `ranking`, and the metadata say so."""
    with served(reply_mode="rank") as app:
        arrays = loss_arrays(concept=bytes_array([app.concept().encode()]))
        assert sorted(outputs_of(infer(app, "loss", arrays))) == ["candidates", "ranking"]
        outputs = app.client.get("/v2/models/loss").json()["outputs"]
        assert [output["name"] for output in outputs] == ["ranking", "candidates"]


def test_an_inference_is_charged_and_receipted(app: Served) -> None:
    """The cost is told, counted in the account's usage, and signed in a receipt of the inference's route."""
    reply = infer(app, "loss", loss_arrays(concept=bytes_array([app.concept().encode()])))
    assert reply.json()["parameters"] | {"rejected": ""} == {
        "forwards": 6, "queries": 3, "price_micros": 0, "rejected": "",
    }  # fmt: skip
    assert app.client.get("/v1/usage").json()["forwards"] == 6
    assert app.client.get("/v1/receipts").json()["receipts"][0]["route"] == "/v2/models/loss/infer"


def test_the_same_key_is_charged_once_and_without_one_each_request_is(app: Served) -> None:
    """A repeated key replays the stored reply; the same bytes without a key are two operations."""
    arrays = loss_arrays(concept=bytes_array([app.concept().encode()]))
    first = infer(app, "loss", arrays, {"Idempotency-Key": "k"})
    again = infer(app, "loss", arrays, {"Idempotency-Key": "k"})
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    infer(app, "loss", arrays)
    infer(app, "loss", arrays)
    assert app.client.get("/v1/usage").json()["forwards"] == 18


def test_a_budget_holds_for_inferences_too(app: Served) -> None:
    """Over the cap is 402, computes nothing, and says why under `error` as well."""
    concept = app.concept()
    set_budget(app.host.books, app.host.local.account_id, Period.DAY, Budget(max_forwards=10))
    arrays = loss_arrays(concept=bytes_array([concept.encode()]))
    assert infer(app, "loss", arrays).status_code == 200
    calls = app.engine.calls
    refused = infer(app, "loss", arrays)
    assert (refused.status_code, refused.json()["code"], app.engine.calls) == (402, "budget_spent", calls)
    assert "budget" in refused.json()["error"]


WRONG = [
    ("loss", {"t": None}, 422, "invalid_request"),
    ("loss", {"t": np.array([0.5, np.nan])}, 422, "invalid_request"),
    ("loss", {"t": np.array([0.5])}, 422, "invalid_tensor"),
    ("loss", {"t": np.array([1, 2])}, 422, "invalid_tensor"),
    ("loss", {"seed": np.array([-1, 0])}, 422, "invalid_request"),
    ("loss", {"image": np.array([0, 4])}, 422, "invalid_request"),
    ("loss", {"prompts": bytes_array([b"\xff\xfe"])}, 422, "invalid_tensor"),
    ("loss", {"placeholder_token": bytes_array([b"a", b"b"])}, 422, "invalid_tensor"),
    ("loss", {"placeholder_token": bytes_array([b"cat"])}, 422, "placeholder_taken"),
    ("loss", {"embeddings_text": None}, 422, "invalid_request"),
    ("loss", {"embeddings_text": np.ones((1, 1, 3), np.float32)}, 422, "invalid_tensor"),
    ("loss", {"embeddings_text": np.ones((1, 1, DIM), np.int32)}, 422, "invalid_tensor"),
    ("loss", {"embeddings_other": np.ones((1, 1, DIM), np.float32)}, 422, "invalid_tensor"),
    ("loss", {"unheard_of": np.ones(1)}, 422, "invalid_request"),
    ("loss", {"pictures": bytes_array([b"x"])}, 422, "invalid_request"),
    ("loss", {"concept": None}, 422, "invalid_request"),
    ("loss", {"concept": None, "pictures": bytes_array([b"no picture"])}, 422, "invalid_image"),
    ("loss", {"concept": None, "pictures": np.zeros((1, 0, 4, 3), np.uint8)}, 422, "invalid_tensor"),
    ("loss", {"concept": None, "pictures": np.zeros((1, 4, 4, 4), np.uint8)}, 422, "invalid_tensor"),
    ("loss", {"concept": None, "pictures": bytes_array([b"x"] * 21)}, 422, "limit_exceeded"),
    ("loss", {"concept": bytes_array([b"another's"])}, 404, "concept_not_found"),
    ("images", {"candidate": np.array([0, 2])}, 422, "invalid_request"),
    ("images", {"num_inference_steps": np.array([10_000])}, 422, "limit_exceeded"),
    ("images", {"guidance_scale": np.array([np.inf])}, 422, "invalid_request"),
    ("images", {"height": np.array([15])}, 422, "invalid_request"),
]


@pytest.mark.parametrize(("model", "changes", "status", "code"), WRONG)
def test_what_is_wrong_is_refused_and_not_charged(
    app: Served, model: str, changes: dict[str, Any], status: int, code: str
) -> None:
    """Inputs go through the checks of our own protocol; nothing is computed or charged."""
    arrays = (
        loss_arrays(**{"concept": bytes_array([app.concept().encode()])} | changes)
        if model == "loss"
        else image_arrays(**changes)
    )
    calls = app.engine.calls
    reply = infer(app, model, arrays, binary=True)
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert reply.json()["error"]
    assert app.engine.calls == calls
    assert app.client.get("/v1/usage").json()["forwards"] == 0


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {"Content-Type": "application/json"}, 400, "invalid_request"),
        (b'{"inputs": []}', {"Content-Type": "application/json"}, 422, "invalid_request"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": "application/octet-stream", HEADER_LENGTH_HEADER: "3"}, 400, "invalid_request"),
        (b"{}", {"Content-Type": "application/octet-stream", HEADER_LENGTH_HEADER: "-1"}, 400, "invalid_request"),
        (b"[" * 50 + b"]" * 50, {"Content-Type": "application/json"}, 400, "invalid_request"),
        (b'{"inputs": [' + b" " * 8_400_000 + b"]}", {"Content-Type": "application/json"}, 413, "body_too_large"),
    ],
)
def test_bodies_that_are_no_requests_are_refused(
    app: Served, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """Each with its own refusal."""
    reply = app.client.post("/v2/models/loss/infer", content=body, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (status, code)


def test_server_and_models_describe_themselves(app: Served) -> None:
    """Extensions, tensors, readiness, and the model card among the parameters."""
    assert "binary_tensor_data" in app.client.get("/v2").json()["extensions"]
    metadata = ModelMetadata.parse(app.client.get("/v2/models/loss/versions/1").content)
    tensors = {tensor.name: tensor for tensor in metadata.inputs or []}
    assert tensors["embeddings_text"].shape == [-1, -1, DIM]
    assert metadata.parameters is not None
    assert ModelCard.model_validate_json(metadata.parameters["blackbox_ti_card"]) == app.host.card
    assert app.client.get("/v2/models/images/ready").json() == {"name": "images", "ready": True}
    assert app.client.get("/v2/models/other").status_code == 404
    assert app.client.get("/v2/models/loss/versions/2").status_code == 404


def test_a_model_that_is_not_offered_is_not_there() -> None:
    """A host without losses refuses to describe the model and to run it."""
    with served(objectives=("images",)) as app:
        for reply in (app.client.get("/v2/models/loss"), infer(app, "loss", loss_arrays())):
            assert (reply.status_code, reply.json()["code"]) == (404, "not_offered")
        assert infer(app, "images", image_arrays()).status_code == 200


def test_pictures_of_another_account_are_not_found_by_their_id(app: Served) -> None:
    """What came with one account's request is no concept of anyone."""
    _, key = app.host.accounts.create_key("ada", scopes=tuple(Scope))
    ada = {"Authorization": f"Bearer {key}"}
    shown = loss_arrays(concept=None, pictures=bytes_array([file()]))
    assert infer(app, "loss", shown, ada).status_code == 200
    shown_picture = decode_picture(file(), resolution=16, max_bytes=10_000, max_pixels=10_000)
    held: str = app.client.app.state.passing.concept_id("ada", [shown_picture])  # type: ignore[attr-defined]
    assert app.client.app.state.passing.get("ada", held) is not None  # type: ignore[attr-defined]
    refused = infer(app, "loss", loss_arrays(concept=bytes_array([held.encode()])), ada)
    assert (refused.status_code, refused.json()["code"]) == (404, "concept_not_found")


@settings(max_examples=60)
@given(body=st.binary(max_size=300), length=st.one_of(st.none(), st.integers(-2, 400)))
def test_whatever_bytes_come_only_typed_refusals_go_out(fuzzed: Served, body: bytes, length: int | None) -> None:
    """Any body under any header length is a 4xx with a code."""
    headers = {"Content-Type": "application/octet-stream"}
    if length is not None:
        headers[HEADER_LENGTH_HEADER] = str(length)
    reply = fuzzed.client.post("/v2/models/images/infer", content=body, headers=headers)
    assert 400 <= reply.status_code < 500
    assert reply.json()["code"]


@settings(max_examples=80)
@given(data=st.data())
def test_a_request_with_one_byte_changed_never_fails_the_host(fuzzed: Served, data: st.DataObject) -> None:
    """A real request spoiled in one place is answered or refused, never a 5xx."""
    arrays = image_arrays()
    tensors, payload = encode_tensors(arrays, dict.fromkeys(arrays, True))
    message = encode_message(InferRequest(inputs=tensors), payload)
    place = data.draw(st.integers(0, len(message.body) - 1))
    body = bytearray(message.body)
    body[place] ^= data.draw(st.integers(1, 255))
    reply = fuzzed.client.post("/v2/models/images/infer", content=bytes(body), headers=message.headers)
    assert reply.status_code < 500


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Served]:
    """Yield an app without rate limits, shared by all examples."""
    with served(requests_per_second=1e9, requests_burst=10**9) as running:
        yield running
