"""A foreign inference server without a model: it speaks the protocol over `httpx.MockTransport`, and keeps no keys.

    loss(e, sample) = mean(e**2) + t + 0.001 * (seed % 100) + 0.01 * len(prompt) + mean(picture bytes) / 1000

Its models are as the caller declares them: `grid` with indices, or `rows` with one row for each candidate and sample.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.oip_codec import bytes_array, decode_tensors, encode_tensors
from blackbox_ti.oip_wire import (
    HEADER_LENGTH_HEADER,
    InferReply,
    InferRequest,
    encode_message,
    split_body,
    wants_binary,
)

__all__ = ["DIM", "GRID", "ROWS", "FakeOipHost", "expected_loss"]

DIM = 4
Arrays = dict[str, NDArray[Any]]

GRID: dict[str, tuple[list[tuple[str, str, list[int]]], list[tuple[str, str, list[int]]]]] = {
    "score": (
        [
            ("emb", "FP32", [-1, -1, DIM]), ("text", "BYTES", [-1]), ("which", "INT32", [-1]), ("time", "FP64", [-1]),
            ("noise", "UINT64", [-1]), ("photo", "BYTES", [-1]), ("photo_index", "INT64", [-1]),
        ],
        [("out", "FP32", [-1, -1])],
    ),
    "draw": (
        [
            ("emb", "FP32", [-1, -1, DIM]), ("which_emb", "INT64", [-1]), ("text", "BYTES", [-1]),
            ("noise", "INT64", [-1]), ("steps", "INT32", [1]),
        ],
        [("picture", "UINT8", [-1, 8, 8, 3])],
    ),
}  # fmt: skip

ROWS: dict[str, tuple[list[tuple[str, str, list[int]]], list[tuple[str, str, list[int]]]]] = {
    "score": (
        [
            ("emb", "FP32", [-1, DIM]), ("text", "BYTES", [-1, 1]), ("time", "FP64", [-1, 1]),
            ("noise", "INT64", [-1, 1]), ("photo", "UINT8", [-1, 8, 8, 3]),
        ],
        [("out", "FP32", [-1, 1])],
    ),
}  # fmt: skip


def expected_loss(embedding: NDArray[Any], t: float, seed: int, prompt: str, picture: bytes) -> float:
    """Return the loss of one candidate (T, D) on one sample; `picture` is a file."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), np.float64)
    distance = float((embedding.astype(np.float64) ** 2).mean())
    return distance + t + 0.001 * (seed % 100) + 0.01 * len(prompt) + float(pixels.mean()) / 1000


@dataclass
class FakeOipHost:
    """The host; `fault` may answer instead of it, or return None. `inferences` are the raw requests it worked on."""

    models: Mapping[str, Any] = field(default_factory=lambda: GRID)
    extensions: tuple[str, ...] = ()
    fault: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
    change: Callable[[Arrays], Arrays] = lambda outputs: outputs
    parameters: dict[str, Any] = field(default_factory=dict)
    inferences: list[httpx.Request] = field(default_factory=list)

    def transport(self) -> httpx.MockTransport:
        """Return the way to this host for an httpx client."""
        return httpx.MockTransport(self.handle)

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        path = request.url.path
        if path.endswith("/infer"):
            self.inferences.append(request)
        fault = self.fault(request)
        if fault is not None:
            return fault
        if path == "/v2":
            return httpx.Response(200, json={"name": "fake", "version": "1", "extensions": list(self.extensions)})
        if path == "/v2/health/ready":
            return httpx.Response(200)
        name = path.removeprefix("/v2/models/").removesuffix("/infer")
        if name not in self.models:
            return httpx.Response(404, json={"error": f"no model {name}"})
        return self._infer(name, request) if path.endswith("/infer") else httpx.Response(200, json=self._metadata(name))

    def _metadata(self, name: str) -> dict[str, Any]:
        inputs, outputs = (
            [{"name": n, "datatype": d, "shape": s} for n, d, s in tensors] for tensors in self.models[name]
        )
        return {"name": name, "versions": ["3"], "platform": "fake", "inputs": inputs, "outputs": outputs}

    def _infer(self, name: str, request: httpx.Request) -> httpx.Response:
        header, payload = split_body(request.content, request.headers.get(HEADER_LENGTH_HEADER))
        asked = InferRequest.parse(header)
        arrays = decode_tensors(asked.inputs, payload)
        for declared, datatype, shape in self.models[name][0]:
            sent = next(t for t in asked.inputs if t.name == declared)
            assert sent.datatype == datatype
            assert len(sent.shape) == len(shape)
            assert all(d in {-1, s} for s, d in zip(sent.shape, shape, strict=True))
        outputs = self.change(_losses(arrays) if name == "score" else _pictures(arrays))
        tensors, raw = encode_tensors(outputs, {n: wants_binary(asked, n) for n in outputs})
        reply = InferReply(model_name=name, id=asked.id, parameters=self.parameters or None, outputs=tensors)
        message = encode_message(reply, raw)
        return httpx.Response(200, content=message.body, headers=message.headers)


def _losses(arrays: Arrays) -> Arrays:
    if "which" in arrays:
        photos, texts = arrays["photo"], arrays["text"]
        table = [
            [
                expected_loss(e, t, int(s), texts[w].decode(), photos[p])
                for t, s, w, p in zip(
                    arrays["time"], arrays["noise"], arrays["which"], arrays["photo_index"], strict=True
                )
            ]
            for e in arrays["emb"]
        ]
        return {"out": np.array(table, np.float32)}
    rows = [
        [expected_loss(e, float(t[0]), int(s[0]), w[0].decode(), _file(p))]
        for e, t, s, w, p in zip(
            arrays["emb"], arrays["time"], arrays["noise"], arrays["text"], arrays["photo"], strict=True
        )
    ]
    return {"out": np.array(rows, np.float32)}


def _file(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _pictures(arrays: Arrays) -> Arrays:
    """Return flat pictures, coloured by candidate, seed and steps."""
    rows = zip(arrays["which_emb"], arrays["noise"], strict=True)
    steps = int(arrays["steps"][0])
    return {"picture": np.stack([np.full((8, 8, 3), (int(c), int(s) % 256, steps), np.uint8) for c, s in rows])}


def as_json(outputs: Mapping[str, Any]) -> bytes:
    """Return a reply written by hand."""
    return json.dumps({"model_name": "m", "outputs": outputs}).encode()


def files(outputs: Arrays) -> Arrays:
    """Return the pictures of an output as PNG files."""
    return {"picture": bytes_array([_file(p) for p in outputs["picture"]])}
