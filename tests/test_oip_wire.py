"""Tests of the inference protocol's records and bodies."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.errors import WireError
from blackbox_ti.oip_wire import (
    InferReply,
    InferRequest,
    InferTensor,
    ModelMetadata,
    RequestedOutput,
    ServerMetadata,
    encode_message,
    split_body,
    wants_binary,
)


def tensor(**changes: object) -> InferTensor:
    """Return a small tensor in JSON."""
    return InferTensor.model_validate({"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0], **changes})


def test_a_message_of_json_alone_says_so() -> None:
    """No header length, nulls left out, the same bytes each time."""
    message = encode_message(InferRequest(id="1", inputs=[tensor()]), b"")
    assert message.headers == {"Content-Type": "application/json"}
    assert json.loads(message.body) == {
        "id": "1", "inputs": [{"data": [1.0], "datatype": "FP32", "name": "x", "shape": [1]}],
    }  # fmt: skip


@given(st.binary(max_size=50))
def test_bytes_follow_the_json_and_are_found_again(payload: bytes) -> None:
    """The header length cuts a body where its JSON ends."""
    request = InferRequest(inputs=[tensor(data=None, parameters={"binary_data_size": len(payload)})])
    message = encode_message(request, payload)
    header, found = split_body(message.body, message.headers["Inference-Header-Content-Length"])
    assert found == payload
    assert InferRequest.parse(header) == request


def test_a_tensor_of_no_bytes_is_binary_too() -> None:
    """An empty binary tensor needs the header length all the same."""
    request = InferRequest(inputs=[tensor(shape=[0], data=None, parameters={"binary_data_size": 0})])
    assert encode_message(request, b"").header_length is not None


@pytest.mark.parametrize("length", ["-1", "6", "x", "", "1.0", "٣", "9" * 30])
def test_a_header_length_beyond_the_body_is_refused(length: str) -> None:
    """Nothing but a number within the body is taken."""
    with pytest.raises(WireError):
        split_body(b"12345", length)


@given(st.binary(max_size=200))
def test_whatever_bytes_come_only_the_wires_error_is_raised(raw: bytes) -> None:
    """Records parse or raise `WireError`."""
    for record in (InferReply, InferRequest, ModelMetadata, ServerMetadata):
        try:
            record.parse(raw)
        except WireError:
            continue


def test_deep_nesting_is_the_wires_error() -> None:
    """No recursion error escapes."""
    with pytest.raises(WireError):
        InferReply.parse(b'{"model_name": "m", "outputs": ' + b"[" * 100_000)


def test_fields_of_newer_hosts_are_ignored() -> None:
    """The protocol is others' too."""
    assert ServerMetadata.parse(b'{"name": "triton", "version": "2", "extensions": [], "new": 1}').name == "triton"


@pytest.mark.parametrize(
    ("outputs", "parameters", "expected"),
    [
        (None, None, False),
        (None, {"binary_data_output": True}, True),
        ([RequestedOutput(name="y", parameters={"binary_data": True})], None, True),
        ([RequestedOutput(name="y", parameters={"binary_data": False})], {"binary_data_output": True}, False),
        ([RequestedOutput(name="y")], {"binary_data_output": True}, True),
        ([RequestedOutput(name="z", parameters={"binary_data": True})], None, False),
    ],
)
def test_an_outputs_own_word_goes_before_the_requests(
    outputs: list[RequestedOutput] | None, parameters: dict[str, bool] | None, expected: bool
) -> None:
    """`binary_data` of the output, then `binary_data_output` of the request, then JSON."""
    request = InferRequest(inputs=[tensor()], outputs=outputs, parameters=parameters)
    assert wants_binary(request, "y") is expected
