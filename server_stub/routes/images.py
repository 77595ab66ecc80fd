"""Making pictures."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from blackbox_ti.wire import ImagesReply, ImagesRequest, ProblemCode
from server_stub.accounts import Principal, Scope
from server_stub.auth import HostDep, requires
from server_stub.bodies import parse
from server_stub.charged import Work, serve_charged
from server_stub.host import Host
from server_stub.openapi import CHARGED, body_of, problems
from server_stub.problems import ProblemError
from server_stub.replies import images_reply
from server_stub.validation import check_images

__all__ = ["images_work", "router"]

router = APIRouter()

_PATH = "/v1/images"


@router.post(
    _PATH,
    response_class=Response,
    openapi_extra=body_of(ImagesRequest, charged=True),
    responses={200: {"model": ImagesReply}, **problems(*CHARGED, extra={408: "invalid_request"})},
)
async def images(
    request: Request, host: HostDep, principal: Annotated[Principal, Depends(requires(Scope.IMAGES))]
) -> Response:
    """Make one picture an item."""
    if "images" not in host.card.objectives:
        raise ProblemError(ProblemCode.NOT_OFFERED, "this host does not make pictures")
    return await serve_charged(request, host, principal, _PATH, lambda body: _work(host, principal, body))


def _work(host: Host, principal: Principal, body: bytes) -> Work[list[Image.Image]]:
    return images_work(host, principal, parse(ImagesRequest, body, max_depth=host.settings.max_json_depth))


def images_work(host: Host, principal: Principal, asked: ImagesRequest) -> Work[list[Image.Image]]:
    """Return the work of making pictures.

    Raises:
        ProblemError: the request is over a limit, or does not fit the model.
    """
    most = host.settings.max_side(host.card.resolution)
    plan = check_images(asked, host.card, host.engine, max_side=most)
    return Work(
        forwards=plan.forwards,
        queries=plan.queries,
        submit=(lambda: host.paint(principal.account, plan.job)) if plan.wanted else None,
        nothing=[],
        cost=lambda _: (plan.forwards, plan.queries),
        reply=lambda pictures, charge: images_reply(plan, pictures, charge),
    )
