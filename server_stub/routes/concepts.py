"""Registering reference pictures, and taking them away."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from blackbox_ti.wire import ConceptReply, ConceptRequest, ProblemCode
from server_stub.accounts import Principal, Scope
from server_stub.auth import HostDep, admitted, requires
from server_stub.bodies import parse, read_json
from server_stub.openapi import ANYWHERE, body_of, problems
from server_stub.problems import ProblemError

__all__ = ["router"]

router = APIRouter()


@router.post(
    "/v1/concepts",
    openapi_extra=body_of(ConceptRequest),
    responses=problems(
        *ANYWHERE, ProblemCode.UNSUPPORTED_MEDIA_TYPE, extra={400: "invalid_request", 408: "invalid_request"}
    ),
)
async def register(
    request: Request, host: HostDep, principal: Annotated[Principal, Depends(requires(Scope.LOSS))]
) -> ConceptReply:
    """Register reference pictures; the same pictures of the same account have the same id."""
    host.check_ready()
    async with asynccontextmanager(admitted)(host, principal):
        body = await read_json(request, timeout=host.settings.body_timeout)
        asked = await run_in_threadpool(parse, ConceptRequest, body, max_depth=host.settings.max_json_depth)
        concept = await run_in_threadpool(host.register, principal.account, asked.images)
    return ConceptReply(concept=concept.id, images=len(concept.latents))


@router.delete(
    "/v1/concepts/{concept}",
    status_code=204,
    response_class=Response,
    responses=problems(*ANYWHERE, ProblemCode.CONCEPT_NOT_FOUND),
)
async def remove(
    host: HostDep,
    principal: Annotated[Principal, Depends(requires(Scope.LOSS))],
    concept: Annotated[str, Path(max_length=256)],
) -> Response:
    """Remove a concept of the account."""
    if not await run_in_threadpool(host.concepts.delete, principal.account, concept):
        raise ProblemError(ProblemCode.CONCEPT_NOT_FOUND, "the account has no such concept")
    return Response(status_code=204)
