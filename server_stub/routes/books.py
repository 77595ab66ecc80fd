"""What the account spent, and the receipts that prove it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from blackbox_ti.wire import RECEIPT_HEAD_HEADER, ReceiptsReply, UsageReply
from server_stub import receipts as chain
from server_stub import spending
from server_stub.accounts import Principal, Scope
from server_stub.auth import HostDep, requires
from server_stub.host import Host
from server_stub.idempotency import day_of
from server_stub.openapi import ANYWHERE, problems

__all__ = ["router"]

router = APIRouter()


@router.get("/v1/usage", responses=problems(*ANYWHERE))
async def usage(
    response: Response, host: HostDep, principal: Annotated[Principal, Depends(requires(Scope.USAGE))]
) -> UsageReply:
    """Return what the account spent; a cap is what was spent and what the tightest budget leaves right now."""
    reply = await run_in_threadpool(_usage, host, principal)
    response.headers[RECEIPT_HEAD_HEADER] = reply.head or "0" * 64
    return reply


def _usage(host: Host, principal: Principal) -> UsageReply:
    with host.books.read() as connection:
        spent = spending.spent_in(connection, principal.account_id)
        left = spending.left_in(connection, principal.account_id, day_of(host.clock()))
        count, head = chain.head_in(connection, principal.account_id)
    return UsageReply(
        account=principal.account,
        forwards=spent.forwards,
        queries=spent.queries,
        price_micros=spent.price_micros,
        currency=host.card.prices.currency,
        max_forwards=_sum(spent.forwards, left.max_forwards),
        max_queries=_sum(spent.queries, left.max_queries),
        max_price_micros=_sum(spent.price_micros, left.max_price_micros),
        receipts=count,
        head=head if count else None,
    )


def _sum(spent: int, left: int | None) -> int | None:
    return None if left is None else spent + left


@router.get("/v1/receipts", responses=problems(*ANYWHERE))
async def receipts(
    host: HostDep,
    principal: Annotated[Principal, Depends(requires(Scope.AUDIT))],
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, lt=2**31)] = 500,
) -> ReceiptsReply:
    """Return the account's receipts after a sequence number, in order; a page may be shorter than `limit`."""
    most = min(limit, host.settings.max_receipts_page)
    return await run_in_threadpool(chain.page, host.books, principal.account_id, after=after, limit=most)
