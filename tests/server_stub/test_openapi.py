"""The OpenAPI document's parts; the routes' own tests and fuzzing hold the whole against the server."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from blackbox_ti.wire import LossRequest, ProblemCode
from server_stub.openapi import CHARGED, body_of, document, problems


def _app() -> FastAPI:
    app = FastAPI()

    @app.post("/charged", openapi_extra=body_of(LossRequest, charged=True), responses=problems(*CHARGED))
    def charged() -> None:
        """Do something."""

    @app.get("/open", responses=problems(ProblemCode.INTERNAL))
    def free() -> None:
        """Say something."""

    return app


def test_codes_of_one_status_are_named_together() -> None:
    """A status is documented once, with every code that it can mean, as problem details."""
    told = problems(ProblemCode.RATE_LIMITED, ProblemCode.INVALID_IMAGE, ProblemCode.INVALID_TENSOR, extra={418: "tea"})
    assert told[422]["description"] == "invalid_image, invalid_tensor"
    assert told[418]["description"] == "tea"
    assert 431 in told
    schemas = {tuple(reply["content"]) for reply in told.values()}
    assert schemas == {("application/problem+json",)}


def test_only_routes_that_can_refuse_a_stranger_want_a_key() -> None:
    """Security is documented where 401 is."""
    paths = document(_app())["paths"]
    assert paths["/charged"]["post"]["security"] == [{"key": []}]
    assert "security" not in paths["/open"]["get"]


def test_a_charged_route_wants_an_idempotency_key() -> None:
    """The header is required and printable; an uncharged body asks for none."""
    (header,) = body_of(LossRequest, charged=True)["parameters"]
    assert (header["name"], header["in"], header["required"]) == ("Idempotency-Key", "header", True)
    assert "parameters" not in body_of(LossRequest)


def test_every_reference_has_its_target() -> None:
    """Records that only a body's parser knows are in the document, with the records within them."""
    made = document(_app())

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [r for inner in value.values() for r in references(inner)]
        return [r for inner in value for r in references(inner)] if isinstance(value, list) else []

    found = {reference.removeprefix("#/components/schemas/") for reference in references(made)}
    assert {"LossRequest", "Problem", "Tensor", "Sample"} <= found
    assert found <= set(made["components"]["schemas"])
