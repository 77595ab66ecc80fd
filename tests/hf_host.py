"""The handler on an engine without a model, behind the ways of a hosted endpoint, over `httpx.MockTransport`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from blackbox_ti.attempt import Attempt
from blackbox_ti.hf_endpoint import HfEndpoint
from blackbox_ti.retry import RetryPolicy
from server_stub.hosting.huggingface.handler import EndpointHandler
from server_stub.settings import Settings
from tests.server_stub.fake_engine import FakeEngine

__all__ = ["HfHost", "hf_endpoint"]

URL = "http://127.0.0.1:9"


class HfHost:
    """A hosted endpoint; `script` says what becomes of the next charged requests, in order, None for nothing amiss.

    `dropped` does the work and loses the reply; a number is that status, without the work; `400 after` does the work
    and fails to tell of it. `worked` counts the forwards that the engine was made to do.
    """

    def __init__(self, *, token: str | None = None, **settings: Any) -> None:
        self.engine = FakeEngine()
        self.settings = settings
        self.token = token
        self.script: list[str | int | None] = []
        self.bodies: list[dict[str, Any]] = []
        self.worked = 0
        self.restart()

    def restart(self) -> None:
        """Begin anew, as another replica does: no pictures, no replies kept."""
        self.handler = EndpointHandler("", engine=self.engine, settings=Settings(**self.settings))

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            return httpx.Response(401, json={"error": "Unauthorized"})
        body = json.loads(request.content)
        self.bodies.append(body)
        charged = body["parameters"]["task"] in {"loss", "images"}
        fate = self.script.pop(0) if charged and self.script else None
        if isinstance(fate, int):
            return httpx.Response(fate, text="starting", headers={"Retry-After": "3"})
        answer = self.handler(body)
        if charged and "reply" in answer and not answer["replayed"]:
            self.worked += answer["reply"]["charge"]["forwards"]
        if fate == "dropped":
            raise httpx.ReadError("the connection broke")
        if fate == "400 after":
            return httpx.Response(400, json={"error": "cannot serialise"})
        return httpx.Response(200, json=answer)


def hf_endpoint(
    host: HfHost,
    *,
    on_attempt: Callable[[Attempt], None] | None = None,
    sleep: Callable[[float], None] = lambda _: None,
    api_key: str | None = None,
    policy: RetryPolicy | None = None,
) -> HfEndpoint:
    """Return an endpoint over a host, whose waits take no time."""
    return HfEndpoint(
        URL,
        api_key=api_key,
        http=httpx.MockTransport(host.handle),
        on_attempt=on_attempt,
        rng=np.random.default_rng(0),
        sleep=sleep,
        policy=policy,
    )
