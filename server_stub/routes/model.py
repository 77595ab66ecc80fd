"""The model card, and the vocabulary where the host offers it."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from starlette.concurrency import run_in_threadpool

from blackbox_ti.wire import ModelCard, ProblemCode, VocabularyReply, encode_tensor
from server_stub.accounts import Principal, Scope
from server_stub.auth import HostDep, requires
from server_stub.host import Host
from server_stub.openapi import ANYWHERE, problems
from server_stub.problems import ProblemError

__all__ = ["router"]

router = APIRouter()

_PAGE_BYTES: Final = 2**24


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
    if not host.card.vocabulary:
        raise ProblemError(ProblemCode.NOT_OFFERED, "this host does not offer its vocabulary")
    return await run_in_threadpool(_page, host, encoder, offset, limit)


def _page(host: Host, encoder: str, offset: int, limit: int) -> VocabularyReply:
    known = {e.name: e.dim for e in host.card.encoders}
    if encoder not in known:
        raise ProblemError(ProblemCode.INVALID_REQUEST, f"the encoders are {', '.join(known)}")
    tokens, embeddings = host.engine.vocabulary(encoder)
    most = max(1, _PAGE_BYTES // (4 * known[encoder]))
    end = offset + min(limit, host.settings.max_vocabulary_page, most)
    return VocabularyReply(
        encoder=encoder,
        total=len(tokens),
        offset=offset,
        tokens=list(tokens[offset:end]),
        embeddings=encode_tensor(embeddings[offset:end]),
    )
