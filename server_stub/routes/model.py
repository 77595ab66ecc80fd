"""The model card, and the vocabulary where the host offers it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.concurrency import run_in_threadpool

from blackbox_ti.wire import ModelCard, ProblemCode, VocabularyReply
from server_stub.accounts import Principal, Scope
from server_stub.auth import HostDep, requires
from server_stub.openapi import ANYWHERE, problems
from server_stub.replies import vocabulary_reply

__all__ = ["router"]

router = APIRouter()


@router.get("/v1/model", responses=problems(*ANYWHERE))
async def model(host: HostDep, _: Annotated[Principal, Depends(requires())]) -> ModelCard:
    """Return the model card."""
    return host.card


@router.get("/v1/vocabulary", responses=problems(*ANYWHERE, ProblemCode.NOT_OFFERED))
async def vocabulary(
    host: HostDep,
    _: Annotated[Principal, Depends(requires(Scope.VOCABULARY))],
    encoder: Annotated[str, Query(max_length=256)],
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, lt=2**31)] = 4096,
) -> VocabularyReply:
    """Return a page of an encoder's token table; a page may be shorter than `limit`."""
    most = min(limit, host.settings.max_vocabulary_page)
    return await run_in_threadpool(vocabulary_reply, host.engine, host.card, encoder, offset, most)
