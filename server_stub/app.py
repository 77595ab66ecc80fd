"""The ASGI app of the reference server: an engine and settings in, routes out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from blackbox_ti.wire import ProblemCode
from server_stub.database import BooksUnavailableError
from server_stub.engine import Engine
from server_stub.host import Host
from server_stub.logs import logger
from server_stub.middleware import Envelope
from server_stub.openapi import document
from server_stub.problems import ProblemError, problem_response
from server_stub.routes import books, concepts, images, loss, model, oip, operations
from server_stub.settings import Settings

__all__ = ["app_of", "create_app"]


def create_app(engine: Engine, settings: Settings) -> FastAPI:
    """Return the app that serves `engine`, its model warm; leaving the app's lifespan closes it.

    Raises:
        ValueError: the state folder cannot be used; the message says what to do.
    """
    host = Host(engine, settings)
    host.warm.result()
    return app_of(host)


def app_of(host: Host) -> FastAPI:
    """Return the app around `host`, which refuses work with 503 until it is ready."""
    app = FastAPI(
        lifespan=_lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, debug=False
    )
    app.state.host = host
    app.state.passing = oip.passing_concepts(host)
    for module in (model, concepts, loss, images, books, operations, oip):
        app.include_router(module.router)
    app.add_middleware(Envelope, host=host)
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(BooksUnavailableError, _on_books)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await run_in_threadpool(app.state.host.close)


def _request_id(request: Request) -> str | None:
    found: str | None = getattr(request.state, "request_id", None)
    return found


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return problem_response(error, _request_id(request))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = ProblemCode.METHOD_NOT_ALLOWED if error.status_code == 405 else ProblemCode.NOT_FOUND
    return problem_response(ProblemError(code, headers=error.headers), _request_id(request))


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(str(part) for part in e['loc'])[:128]}: {e['msg']}" for e in error.errors()[:5]]
    return problem_response(ProblemError(ProblemCode.INVALID_REQUEST, "; ".join(found)), _request_id(request))


async def _on_books(request: Request, error: Exception) -> Response:
    logger.error("the books cannot be used", extra={"request_id": _request_id(request)}, exc_info=error)
    after: float = request.app.state.host.settings.retry_after
    problem = ProblemError(ProblemCode.OVERLOADED, "the host's books cannot be used now", retry_after=after)
    return problem_response(problem, _request_id(request))
