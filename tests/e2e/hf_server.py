"""A web service after the documented contract of custom handlers: `python -m tests.e2e.hf_server JSON`.

The JSON has `model_dir`, and may have `starting`, how many POSTs are answered 503 as by the proxy of an endpoint that
comes back from zero replicas, `token`, without which requests are 401, and `drop`, the numbers of the POSTs after that
whose connection is closed once the handler has done the work.

What it holds to, after the toolkit's README and the documentation of custom handlers: `handler.py` is loaded by its
path from the model's directory, which is put on the module search path; `EndpointHandler(directory)` is called with the
body's JSON, one call at a time, off the event loop; a body without `inputs` and any exception are 400 with
`{"error": ...}`; the content type has to be one it knows; the result is the reply's JSON.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

__all__ = ["Service", "load_handler", "main"]

Handler = Callable[[dict[str, Any]], Any]


def load_handler(directory: Path) -> Handler:
    """Return the repository's own handler, made with the directory."""
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", directory / "handler.py")
    assert spec is not None
    assert spec.loader is not None
    sys.path.insert(0, str(directory))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    handler: Handler = module.EndpointHandler(str(directory))
    return handler


class Service:
    """The web service around one handler."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._handler = load_handler(Path(given["model_dir"]))
        self._starting = int(given.get("starting", 0))
        self._token = given.get("token")
        self._drop = set(given.get("drop", ()))
        self._posts = 0
        self._one = asyncio.Semaphore(1)

    async def health(self, _: Request) -> Response:
        """Say that it is there."""
        return PlainTextResponse("Ok")

    async def predict(self, request: Request) -> Response:
        """Answer one request as proxy and toolkit do between them."""
        if self._token is not None and request.headers.get("authorization") != f"Bearer {self._token}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        if self._starting:
            self._starting -= 1
            return PlainTextResponse("503 Service Unavailable", 503)
        self._posts += 1
        number = self._posts
        try:
            reply = await self._called(request)
        except Exception as error:
            return JSONResponse({"error": str(error)}, 400)
        return _Dropped() if number in self._drop else reply

    async def _called(self, request: Request) -> Response:
        if request.headers.get("content-type") != "application/json":
            raise ValueError("Content type not supported")
        body = json.loads(await request.body())
        if "inputs" not in body:
            raise ValueError("Body needs to provide a inputs key")
        async with self._one:
            made = await run_in_threadpool(self._handler, body)
        return Response(json.dumps(made, allow_nan=False), media_type=request.headers["accept"])


class _Dropped(Response):
    """A reply that breaks off after its first byte: the connection closes before the length it promised."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": False})


def main(text: str) -> None:
    """Serve on a free port until a signal, its address the first line of stdout."""
    service = Service(json.loads(text))
    app = Starlette(routes=[Route("/", service.health), Route("/", service.predict, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))

    async def run() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        address = server.servers[0].sockets[0].getsockname()
        sys.stdout.write(f"http://127.0.0.1:{address[1]}\n")
        sys.stdout.flush()
        await serving

    asyncio.run(run())


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(sys.argv[1])
