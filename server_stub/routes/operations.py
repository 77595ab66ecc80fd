"""Health, readiness, metrics and the OpenAPI document.

`/healthz` and `/readyz` are open to all, and say nothing but yes or no. `/metrics` needs a key of the scope `metrics`
and `/openapi.json` any key: behind a proxy everyone comes from loopback, so the address is no reason to trust.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from blackbox_ti.wire import ProblemCode
from server_stub.accounts import Principal, Scope
from server_stub.auth import HostDep, requires
from server_stub.metrics import CONTENT_TYPE_LATEST
from server_stub.openapi import ANYWHERE, problems

__all__ = ["router"]

router = APIRouter()

_OPEN = problems(ProblemCode.NOT_READY, ProblemCode.BODY_TOO_LARGE, ProblemCode.INTERNAL)


@router.get("/healthz", responses=_OPEN)
async def healthz() -> dict[str, str]:
    """Return that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses=_OPEN)
async def readyz(host: HostDep) -> dict[str, str]:
    """Return that new work is taken."""
    host.check_ready()
    return {"status": "ready"}


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus text", "content": {"text/plain": {}}}, **problems(*ANYWHERE)},
)
async def metrics(host: HostDep, _: Annotated[Principal, Depends(requires(Scope.METRICS))]) -> Response:
    """Return the metrics in Prometheus' text format."""
    return Response(host.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/openapi.json", response_class=JSONResponse, responses=problems(*ANYWHERE))
async def openapi(request: Request, _: Annotated[Principal, Depends(requires())]) -> JSONResponse:
    """Return this API's OpenAPI document."""
    return JSONResponse(request.app.openapi())
