"""The one path of a charged request: identify, reserve, compute on the lane, settle, reply.

key known and done            stored reply again, marked as a replay
key known, not done           409, retry later
budget does not allow it      402, nothing computed
queue full                    reservation released, 503
client gone before its turn   reservation released, nothing computed
client gone after             computed, charged and kept: a retry gets the reply
engine failed                 reservation released, 500
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from blackbox_ti.wire import (
    IDEMPOTENCY_KEY_HEADER,
    RECEIPT_HEAD_HEADER,
    REPLAYED_HEADER,
    Charge,
    ImagesReply,
    LossReply,
    ProblemCode,
    Receipt,
)
from server_stub import receipts
from server_stub.accounts import Principal
from server_stub.auth import admitted
from server_stub.bodies import read_json
from server_stub.host import Host
from server_stub.idempotency import Conflict, ConflictError, Replay, Reservation, ReservationLostError
from server_stub.problems import ProblemError
from server_stub.receipts import Order
from server_stub.spending import Amount, BudgetSpentError

__all__ = ["Work", "serve_charged"]

ResultT = TypeVar("ResultT")

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True)
class Work(Generic[ResultT]):
    """A validated request: the most it costs, how to queue it (null when nothing is left to run), and its reply.

    `cost` is (forwards, queries) of a result: candidates whose losses are not finite are not charged.
    """

    forwards: int
    queries: int
    submit: Callable[[], Future[ResultT]] | None
    nothing: ResultT
    cost: Callable[[ResultT], tuple[int, int]]
    reply: Callable[[ResultT, Charge], LossReply | ImagesReply]


class _ClientGoneError(Exception):
    """The client went away before its work began."""


async def serve_charged(
    request: Request,
    host: Host,
    principal: Principal,
    route: str,
    plan: Callable[[bytes], Work[ResultT]],
    *,
    key: str | None = None,
    media_type: str = "application/json",
) -> Response:
    """Answer a charged request; `plan` validates its body, JSON or of `media_type`, on a worker thread.

    `key` is the idempotency key of a request that need not bring one.

    Raises:
        ProblemError: the request is refused; nothing was charged.
    """
    host.check_ready()
    if key is None or IDEMPOTENCY_KEY_HEADER in request.headers:
        key = _idempotency_key(request)
    async with asynccontextmanager(admitted)(host, principal):
        body = await read_json(request, timeout=host.settings.body_timeout, also=media_type)
        order = _order(host, principal, key, route, body)
        begun = await run_in_threadpool(_begin, host, order, partial(plan, body))
        if isinstance(begun, Replay):
            return await _replayed(host, order, begun)
        return await asyncio.shield(_compute(request, host, *begun))


def _idempotency_key(request: Request) -> str:
    key = request.headers.get(IDEMPOTENCY_KEY_HEADER)
    if key is None:
        detail = f"send {IDEMPOTENCY_KEY_HEADER}: a fresh random value for each operation, the same for its retries"
        raise ProblemError(ProblemCode.IDEMPOTENCY_KEY_MISSING, detail)
    if not _KEY.fullmatch(key):
        detail = f"{IDEMPOTENCY_KEY_HEADER} is 1 to 255 visible ASCII characters"
        raise ProblemError(ProblemCode.INVALID_REQUEST, detail, status=400)
    return key


def _order(host: Host, principal: Principal, key: str, route: str, body: bytes) -> Order:
    return Order(
        account_id=principal.account_id,
        account=principal.account,
        key=key,
        route=route,
        request_sha256=hashlib.sha256(body).hexdigest(),
        model=host.card.model,
        fingerprint=host.card.fingerprint,
        currency=host.card.prices.currency,
    )


def _find(host: Host, order: Order) -> Replay | None:
    try:
        return host.operations.find(order.account_id, order.key, order.route, order.request_sha256)
    except ConflictError as error:
        raise _conflict(error, host) from error


def _begin(host: Host, order: Order, plan: Callable[[], Work[ResultT]]) -> Replay | tuple[Work[ResultT], Reservation]:
    """Return the stored reply, or else the work that `plan` validates, and what is reserved for it."""
    replay = _find(host, order)
    if replay is not None:
        return replay
    work = plan()
    try:
        begun = host.operations.begin(order, _amount(host, work.forwards, work.queries))
    except ConflictError as error:
        raise _conflict(error, host) from error
    except BudgetSpentError as error:
        detail = f"the budget ({error.period}) does not allow {work.forwards} forwards and {work.queries} queries more"
        raise ProblemError(ProblemCode.BUDGET_SPENT, detail) from error
    return begun if isinstance(begun, Replay) else (work, begun)


def _amount(host: Host, forwards: int, queries: int) -> Amount:
    return Amount(forwards, queries, host.card.prices.price_of(forwards, queries))


def _conflict(error: ConflictError, host: Host) -> ProblemError:
    if error.conflict is Conflict.IN_FLIGHT:
        detail = "the same request is being worked on; ask again for its reply"
        after = host.settings.retry_after
        return ProblemError(ProblemCode.IDEMPOTENCY_KEY_IN_FLIGHT, detail, retry_after=after)
    detail = "the key was used for another request; draw a fresh one for a new operation"
    return ProblemError(ProblemCode.IDEMPOTENCY_KEY_REUSED, detail)


async def _replayed(host: Host, order: Order, replay: Replay) -> Response:
    _, head = await run_in_threadpool(receipts.head, host.books, order.account_id)
    host.metrics.replays.inc()
    return _response(replay.reply, {REPLAYED_HEADER: "true", RECEIPT_HEAD_HEADER: head})


def _response(body: bytes, headers: dict[str, str]) -> Response:
    return Response(body, headers=headers, media_type="application/json")


async def _compute(request: Request, host: Host, work: Work[ResultT], held: Reservation) -> Response:
    """Run reserved work and settle it; on any failure the reservation is given back."""
    try:
        result = work.nothing if work.submit is None else await _result(request, work.submit)
    except BaseException as error:
        await run_in_threadpool(host.operations.release, held)
        if isinstance(error, _ClientGoneError):
            return Response(status_code=499)
        raise
    try:
        body, receipt = await run_in_threadpool(_settle, host, work, held, result)
    except ReservationLostError as error:
        after = host.settings.retry_after
        raise ProblemError(ProblemCode.OVERLOADED, "the reply was lost; ask again", retry_after=after) from error
    host.metrics.forwards.inc(receipt.forwards)
    host.metrics.queries.inc(receipt.queries)
    return _response(body, {RECEIPT_HEAD_HEADER: receipt.hash})


def _settle(host: Host, work: Work[ResultT], held: Reservation, result: ResultT) -> tuple[bytes, Receipt]:
    issued: list[Receipt] = []

    def reply(receipt: Receipt) -> bytes:
        issued.append(receipt)
        charge = Charge(
            forwards=receipt.forwards, queries=receipt.queries, price_micros=receipt.price_micros, receipt=receipt
        )
        return work.reply(result, charge).model_dump_json().encode()

    body = host.operations.settle(held, _amount(host, *work.cost(result)), reply)
    return body, issued[-1]


async def _result(request: Request, submit: Callable[[], Future[ResultT]]) -> ResultT:
    """Queue the work and wait for it; where the client leaves before its turn, take it out of the queue."""
    future = submit()
    done = asyncio.wrap_future(future)
    leaving = asyncio.create_task(_departure(request))
    either: set[asyncio.Future[Any]] = {done, leaving}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not done.done() and future.cancel():
            raise _ClientGoneError
        return await done
    finally:
        leaving.cancel()


async def _departure(request: Request) -> None:
    """Return when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
