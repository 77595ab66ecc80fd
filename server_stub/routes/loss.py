"""Scoring candidates."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from blackbox_ti.wire import LossReply, LossRequest, ProblemCode
from server_stub.accounts import Principal, Scope
from server_stub.auth import HostDep, requires
from server_stub.bodies import parse
from server_stub.charged import Work, serve_charged
from server_stub.host import Host
from server_stub.openapi import CHARGED, body_of, problems
from server_stub.problems import ProblemError
from server_stub.replies import Array, cost_of_scored, loss_reply
from server_stub.validation import LossPlan, check_loss

__all__ = ["loss_work", "router"]

router = APIRouter()

_PATH = "/v1/loss"


@router.post(
    _PATH,
    response_class=Response,
    openapi_extra=body_of(LossRequest, charged=True),
    responses={200: {"model": LossReply}, **problems(*CHARGED, extra={408: "invalid_request"})},
)
async def loss(
    request: Request, host: HostDep, principal: Annotated[Principal, Depends(requires(Scope.LOSS))]
) -> Response:
    """Score every candidate on every sample of the bank."""
    if "loss" not in host.card.objectives:
        raise ProblemError(ProblemCode.NOT_OFFERED, "this host does not offer losses")
    return await serve_charged(request, host, principal, _PATH, lambda body: _work(host, principal, body))


def _work(host: Host, principal: Principal, body: bytes) -> Work[Array]:
    asked = parse(LossRequest, body, max_depth=host.settings.max_json_depth)
    return loss_work(host, principal, asked, host.concept(principal.account, asked.concept).latents)


def loss_work(host: Host, principal: Principal, asked: LossRequest, latents: Array) -> Work[Array]:
    """Return the work of scoring candidates against a concept's latents.

    Raises:
        ProblemError: the request is over a limit, or does not fit the model or the concept.
    """
    plan = check_loss(asked, host.card, host.engine, latents=latents, concept_images=len(latents))
    return Work(
        forwards=plan.forwards,
        queries=plan.queries,
        submit=(lambda: host.score(principal.account, plan.job)) if plan.accepted else None,
        nothing=np.empty((0, len(asked.samples)), np.float32),
        cost=cost_of_scored,
        reply=lambda losses, charge: _counted(host, loss_reply(plan, losses, host.card, charge), plan),
    )


def _counted(host: Host, reply: LossReply, plan: LossPlan) -> LossReply:
    for rejection in reply.rejected:
        host.metrics.rejected.labels(rejection.code).inc()
    assert len(reply.candidates) + len(reply.rejected) == len(plan.accepted) + len(plan.rejected)
    return reply
