"""An app on the fake engine and a client for it, for the tests of the routes."""

from __future__ import annotations

import base64
import io
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from blackbox_ti.wire import encode_tensor
from server_stub.app import create_app
from server_stub.host import Host
from server_stub.settings import Settings
from tests.server_stub.fake_engine import DIM, FakeEngine

__all__ = ["Served", "embeddings", "images_body", "loss_body", "picture", "served"]


def picture(level: int = 100, size: int = 16) -> str:
    """Return a flat PNG in base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (level, level, level)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def embeddings(values: Any) -> dict[str, Any]:
    """Return `values` (B, T, DIM) as the embeddings of a request."""
    return {"text": encode_tensor(np.asarray(values, np.float32)).model_dump()}


def loss_body(concept: str, *, candidates: int = 3, samples: int = 2, **changes: Any) -> dict[str, Any]:
    """Return a loss request of ordinary candidates."""
    values = np.linspace(0.1, 1, candidates * DIM).reshape(candidates, 1, DIM)
    bank = [{"image": 0, "prompt": 0, "t": 0.5, "seed": seed} for seed in range(samples)]
    body = {
        "concept": concept,
        "placeholder_token": "<sks>",
        "embeddings": embeddings(values),
        "prompts": ["a photo of <sks>"],
        "samples": bank,
    }
    return body | changes


def images_body(**changes: Any) -> dict[str, Any]:
    """Return an images request of one picture for each of two candidates."""
    body = {
        "placeholder_token": "<sks>",
        "embeddings": embeddings(np.ones((2, 1, DIM))),
        "prompts": ["a photo of <sks>"],
        "items": [{"candidate": index, "prompt": 0, "seed": 5} for index in range(2)],
        "num_inference_steps": 3,
        "guidance_scale": 5.0,
    }
    return body | changes


class Served:
    """A running app: its engine, its host, and a client."""

    def __init__(self, engine: FakeEngine, client: TestClient) -> None:
        self.engine = engine
        self.client = client

    @property
    def host(self) -> Host:
        """Return the app's shared parts."""
        host: Host = self.client.app.state.host  # type: ignore[attr-defined]
        return host

    def concept(self, *levels: int, headers: Mapping[str, str] | None = None) -> str:
        """Register flat pictures and return the concept's id."""
        pictures = [picture(level) for level in levels or (100,)]
        reply = self.client.post("/v1/concepts", json={"images": pictures}, headers=headers)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["concept"])

    def charged(self, path: str, body: Any, *, key: str | None = None, **headers: str) -> Any:
        """Send a charged request with an idempotency key, a fresh one by default; return the reply."""
        sent = {"Idempotency-Key": key or uuid.uuid4().hex, "Content-Type": "application/json", **headers}
        content = body if isinstance(body, bytes | str) else json.dumps(body)
        return self.client.post(path, content=content, headers=sent)


@contextmanager
def served(engine: FakeEngine | None = None, **settings: Any) -> Iterator[Served]:
    """Yield the app on a fake engine with `settings`."""
    engine = engine or FakeEngine()
    app = create_app(engine, Settings(**settings))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield Served(engine, client)
