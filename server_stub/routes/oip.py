"""The Open Inference Protocol, version 2: our two models, `loss` and `images`, for any client that speaks it.

An inference is a charged request like any other: the same scopes, checks, lane, budgets and receipts. `Idempotency-Key`
is optional, since such clients do not know it: without one each request is an operation of its own. (The request's `id`
is not taken for a key: many clients send the same one always.) What an inference cost is among the reply's parameters.
Pictures sent with a request are kept in memory alone, encoded, and the least recently used are dropped.
"""

# No postponed annotations here: FastAPI reads them, and those of `_add_model` name its arguments.
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Depends
from fastapi.routing import APIRoute
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from blackbox_ti.errors import WireError
from blackbox_ti.oip_card import CHARGE_EXTENSION, IDEMPOTENCY_EXTENSION, ModelKind
from blackbox_ti.oip_codec import decode_tensors, encode_tensors
from blackbox_ti.oip_wire import (
    BINARY_EXTENSION,
    BINARY_MEDIA_TYPE,
    HEADER_LENGTH_HEADER,
    InferReply,
    InferRequest,
    ModelMetadata,
    ServerMetadata,
    encode_message,
    split_body,
    wants_binary,
)
from blackbox_ti.wire import ImagesReply, LossReply, LossRequest, ProblemCode
from server_stub.accounts import Principal, Scope
from server_stub.auth import HostDep, requires
from server_stub.bodies import parse
from server_stub.charged import Work, serve_charged
from server_stub.concepts import ConceptStore
from server_stub.host import Host
from server_stub.oip_contract import (
    MODEL_VERSION,
    concept_of,
    images_outputs,
    images_request,
    loss_outputs,
    loss_request,
    model_metadata,
    pictures,
)
from server_stub.openapi import ANYWHERE, CHARGED, infer_body, problems
from server_stub.problems import ProblemError, problem_response
from server_stub.references import register
from server_stub.routes.images import images_work
from server_stub.routes.loss import loss_work

__all__ = ["passing_concepts", "router"]

Array = NDArray[Any]
Arrays = Mapping[str, Array]

_MAX_JSON_BYTES: Final = 8_388_608
_MAX_PASSING: Final = 64
_MAX_PASSING_AN_ACCOUNT: Final = 8
_VERSIONS: Final = ("", f"/versions/{MODEL_VERSION}")
_OPEN: Final = problems(ProblemCode.NOT_READY, ProblemCode.BODY_TOO_LARGE, ProblemCode.INTERNAL)
_INFER: Final = problems(*CHARGED, ProblemCode.CONCEPT_NOT_FOUND, extra={408: "invalid_request"})


class _Route(APIRoute):
    """A route whose refusals carry the member `error` too, where the protocol's clients look."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Return the handler."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except ProblemError as error:
                refusal = problem_response(error, getattr(request.state, "request_id", None))
                told = json.loads(bytes(refusal.body))
                body = json.dumps(told | {"error": f"{told['title']}: {told['detail']}"})
                return Response(body, refusal.status_code, error.headers, refusal.media_type)

        return handler


router = APIRouter(route_class=_Route)


def passing_concepts(host: Host) -> ConceptStore:
    """Return a store for pictures that come with a request: in memory, and small."""
    return ConceptStore(
        host.card.fingerprint,
        secret=host.signer.derived(b"passing concepts"),
        max_concepts=_MAX_PASSING,
        max_per_account=_MAX_PASSING_AN_ACCOUNT,
    )


@router.get("/v2/health/live", responses=_OPEN)
async def live() -> dict[str, bool]:
    """Return that the process answers."""
    return {"live": True}


@router.get("/v2/health/ready", responses=_OPEN)
async def ready(host: HostDep) -> dict[str, bool]:
    """Return that new work is taken."""
    host.check_ready()
    return {"ready": True}


@router.get("/v2", responses=problems(*ANYWHERE))
async def server(_: Annotated[Principal, Depends(requires())]) -> ServerMetadata:
    """Return the server's name, version and extensions."""
    extensions = [BINARY_EXTENSION, IDEMPOTENCY_EXTENSION, CHARGE_EXTENSION]
    return ServerMetadata(name="blackbox-ti", version=version("blackbox-ti"), extensions=extensions)


def _add_model(kind: ModelKind, scope: Scope, plan: Callable[[Request, Host, Principal, Arrays], Work[Any]]) -> None:
    """Add a model's metadata, readiness and inference, with and without its version in the path."""

    async def metadata(host: HostDep, _: Annotated[Principal, Depends(requires())]) -> ModelMetadata:
        """Return the model's tensors."""
        _check_offered(host, kind)
        return model_metadata(kind, host.card)

    async def model_ready(host: HostDep, _: Annotated[Principal, Depends(requires())]) -> dict[str, Any]:
        """Return that the model takes work."""
        _check_offered(host, kind)
        host.check_ready()
        return {"name": kind.value, "ready": True}

    async def infer(
        request: Request, host: HostDep, principal: Annotated[Principal, Depends(requires(scope))]
    ) -> Response:
        """Run the model."""
        _check_offered(host, kind)
        return await _infer(request, host, principal, kind, lambda arrays: plan(request, host, principal, arrays))

    for numbered in _VERSIONS:
        path = f"/v2/models/{kind}{numbered}"
        known = problems(*ANYWHERE, ProblemCode.NOT_OFFERED, ProblemCode.NOT_READY)
        router.add_api_route(path, metadata, methods=["GET"], responses=known)
        router.add_api_route(f"{path}/ready", model_ready, methods=["GET"], responses=known)
        router.add_api_route(
            f"{path}/infer",
            infer,
            methods=["POST"],
            response_class=Response,
            openapi_extra=infer_body(),
            responses={200: {"model": InferReply}, **_INFER},
        )


def _check_offered(host: Host, kind: ModelKind) -> None:
    if kind.value not in host.card.objectives:
        raise ProblemError(ProblemCode.NOT_OFFERED, f"this host does not offer the model {kind.value}")


async def _infer(
    request: Request, host: Host, principal: Principal, kind: ModelKind, plan: Callable[[Arrays], Work[Any]]
) -> Response:
    """Answer as any charged request is, and put the reply, fresh or replayed, into the protocol's form."""

    def planned(body: bytes) -> Work[Any]:
        asked, payload = _parsed(request, host, body)
        try:
            return plan(decode_tensors(asked.inputs, payload))
        except WireError as error:
            raise ProblemError(ProblemCode.INVALID_TENSOR, str(error)) from error

    answer = await serve_charged(
        request,
        host,
        principal,
        f"/v2/models/{kind}/infer",
        planned,
        key=uuid.uuid4().hex,
        media_type=BINARY_MEDIA_TYPE,
    )
    if answer.status_code != 200:
        return answer
    asked, _ = _parsed(request, host, await request.body())
    return _answered(kind, asked, answer)


def _parsed(request: Request, host: Host, body: bytes) -> tuple[InferRequest, bytes]:
    try:
        header, payload = split_body(body, request.headers.get(HEADER_LENGTH_HEADER))
    except WireError as error:
        raise ProblemError(ProblemCode.INVALID_REQUEST, str(error), status=400) from error
    if len(header) > _MAX_JSON_BYTES:
        detail = f"the JSON has at most {_MAX_JSON_BYTES} bytes; send tensors as bytes after it"
        raise ProblemError(ProblemCode.BODY_TOO_LARGE, detail)
    return parse(InferRequest, header, max_depth=host.settings.max_json_depth), payload


def _answered(kind: ModelKind, asked: InferRequest, answer: Response) -> Response:
    """Return the reply in `answer` as the protocol's, with the outputs that were asked for."""
    body = bytes(answer.body)
    reply: LossReply | ImagesReply
    if kind is ModelKind.LOSS:
        reply = LossReply.model_validate_json(body)
        outputs = loss_outputs(reply)
    else:
        reply = ImagesReply.model_validate_json(body)
        outputs = images_outputs(reply)
    wanted = {output.name for output in asked.outputs or []} or set(outputs)
    kept = {name: array for name, array in outputs.items() if name in wanted}
    tensors, payload = encode_tensors(kept, {name: wants_binary(asked, name) for name in kept})
    parameters = {
        "forwards": reply.charge.forwards,
        "queries": reply.charge.queries,
        "price_micros": reply.charge.price_micros,
        "rejected": json.dumps([rejection.model_dump() for rejection in reply.rejected]),
    }
    record = InferReply(
        model_name=kind.value, model_version=MODEL_VERSION, id=asked.id, parameters=parameters, outputs=tensors
    )
    message = encode_message(record, payload)
    return Response(message.body, headers=_kept(answer) | message.headers)


def _kept(answer: Response) -> dict[str, str]:
    """Return the headers of the answer that are not of its body."""
    return {name: value for name, value in answer.headers.items() if not name.startswith("content-")}


def _loss_work(request: Request, host: Host, principal: Principal, arrays: Arrays) -> Work[Any]:
    shown = pictures(arrays, host.card)
    if shown is None:
        concept = host.concept(principal.account, concept_of(arrays))
    else:
        passing: ConceptStore = request.app.state.passing
        concept = register(passing, principal.account, shown, lambda new: _encoded(host, principal, new))
    asked: LossRequest = loss_request(arrays, concept.id)
    return loss_work(host, principal, asked, concept.latents)


def _encoded(host: Host, principal: Principal, shown: Sequence[Image.Image]) -> NDArray[np.float32]:
    encode = partial(host.engine.encode_images, shown)
    queued = host.queued(lambda: host.lane.submit(principal.account, len(shown), encode))
    latents: NDArray[np.float32] = queued.result()
    return latents


def _images_work(request: Request, host: Host, principal: Principal, arrays: Arrays) -> Work[list[Image.Image]]:
    del request
    return images_work(host, principal, images_request(arrays))


_add_model(ModelKind.LOSS, Scope.LOSS, _loss_work)
_add_model(ModelKind.IMAGES, Scope.IMAGES, _images_work)
