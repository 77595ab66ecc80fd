"""Inferences for tests: the arrays that ask what `served` asks by our own protocol, their way to an app and back."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.oip_codec import bytes_array, decode_tensors, encode_tensors
from blackbox_ti.oip_wire import (
    HEADER_LENGTH_HEADER,
    InferReply,
    InferRequest,
    RequestedOutput,
    encode_message,
    split_body,
)
from tests.server_stub.fake_engine import DIM
from tests.server_stub.served import Served, picture

__all__ = ["Arrays", "file", "image_arrays", "infer", "loss_arrays", "outputs_of", "shown"]

Arrays = Mapping[str, NDArray[Any]]


def loss_arrays(candidates: int = 3, samples: int = 2, **changes: Any) -> dict[str, NDArray[Any]]:
    """Return the inputs that ask what `loss_body` asks."""
    arrays: dict[str, NDArray[Any]] = {
        "embeddings_text": np.linspace(0.1, 1, candidates * DIM).reshape(candidates, 1, DIM).astype(np.float32),
        "prompts": bytes_array([b"a photo of <sks>"]),
        "prompt": np.zeros(samples, np.int64),
        "placeholder_token": bytes_array([b"<sks>"]),
        "image": np.zeros(samples, np.int64),
        "t": np.full(samples, 0.5),
        "seed": np.arange(samples),
        "concept": bytes_array([b"none"]),
    }
    return {name: value for name, value in (arrays | changes).items() if value is not None}


def image_arrays(**changes: Any) -> dict[str, NDArray[Any]]:
    """Return the inputs that ask what `images_body` asks."""
    arrays: dict[str, NDArray[Any]] = {
        "embeddings_text": np.ones((2, 1, DIM), np.float32),
        "prompts": bytes_array([b"a photo of <sks>"]),
        "prompt": np.zeros(2, np.int64),
        "placeholder_token": bytes_array([b"<sks>"]),
        "candidate": np.arange(2),
        "seed": np.full(2, 5),
        "num_inference_steps": np.array([3]),
        "guidance_scale": np.array([5.0]),
    }
    return {name: value for name, value in (arrays | changes).items() if value is not None}


def infer(
    app: Served,
    model: str,
    arrays: Arrays,
    headers: Mapping[str, str] | None = None,
    *,
    binary: bool = False,
    version: str = "",
) -> Any:
    """Send an inference and return the raw reply."""
    tensors, payload = encode_tensors(arrays, dict.fromkeys(arrays, binary))
    outputs = [RequestedOutput(name=n, parameters={"binary_data": True}) for n in ("losses", "candidates", "images")]
    asked = InferRequest(id="7", inputs=tensors, outputs=outputs if binary else None)
    message = encode_message(asked, payload)
    path = f"/v2/models/{model}{version}/infer"
    return app.client.post(path, content=message.body, headers=message.headers | dict(headers or {}))


def outputs_of(reply: Any) -> dict[str, NDArray[Any]]:
    """Return the outputs of an accepted reply."""
    assert reply.status_code == 200, reply.text
    header, payload = split_body(reply.content, reply.headers.get(HEADER_LENGTH_HEADER))
    record = InferReply.parse(header)
    assert record.id == "7"
    return decode_tensors(record.outputs, payload)


def file(level: int = 100) -> bytes:
    """Return a flat picture as a PNG file."""
    return base64.b64decode(picture(level))


def shown(**changes: Any) -> dict[str, NDArray[Any]]:
    """Return the inputs of a request for losses that brings its picture."""
    return loss_arrays(**{"concept": None, "pictures": bytes_array([file()])} | changes)
