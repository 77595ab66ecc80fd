"""The OpenAPI document: every status a route can answer, with its schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from blackbox_ti.oip_wire import BINARY_MEDIA_TYPE, HEADER_LENGTH_HEADER, InferRequest
from blackbox_ti.wire import (
    IDEMPOTENCY_KEY_HEADER,
    PROBLEM_MEDIA_TYPE,
    PROTOCOL_VERSION,
    ConceptRequest,
    ImagesRequest,
    LossRequest,
    Problem,
    ProblemCode,
)
from server_stub.problems import status_of

__all__ = ["ANYWHERE", "CHARGED", "body_of", "document", "infer_body", "problems"]

_REF: Final = "#/components/schemas/{model}"
_EXTRA_MODELS: Final[tuple[type[BaseModel], ...]] = (
    ConceptRequest,
    ImagesRequest,
    InferRequest,
    LossRequest,
    Problem,
)
_KEY: Final = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"}

ANYWHERE: Final = (
    ProblemCode.INVALID_REQUEST,
    ProblemCode.UNAUTHENTICATED,
    ProblemCode.FORBIDDEN,
    ProblemCode.RATE_LIMITED,
    ProblemCode.OVERLOADED,
    ProblemCode.BODY_TOO_LARGE,
    ProblemCode.INTERNAL,
)
CHARGED: Final = (
    *ANYWHERE,
    ProblemCode.NOT_OFFERED,
    ProblemCode.UNSUPPORTED_MEDIA_TYPE,
    ProblemCode.IDEMPOTENCY_KEY_MISSING,
    ProblemCode.IDEMPOTENCY_KEY_IN_FLIGHT,
    ProblemCode.BUDGET_SPENT,
)


def problems(*codes: ProblemCode, extra: Mapping[int, str] | None = None) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that may answer with `codes`, and with the statuses of `extra`."""
    named: dict[int, set[str]] = {}
    for code in codes:
        named.setdefault(status_of(code), set()).add(code.value)
    for status, code_name in {431: ProblemCode.LIMIT_EXCEEDED.value, **(extra or {})}.items():
        named.setdefault(status, set()).add(code_name)
    content = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    return {status: {"description": ", ".join(sorted(names)), "content": content} for status, names in named.items()}


def body_of(record: type[BaseModel], *, charged: bool = False) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads its own body."""
    schema = {"$ref": _REF.format(model=record.__name__)}
    extra: dict[str, Any] = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
    if charged:
        extra["parameters"] = [_header(IDEMPOTENCY_KEY_HEADER, _KEY, required=True)]
    return extra


def infer_body() -> dict[str, Any]:
    """Return the `openapi_extra` of an inference: JSON, or JSON with bytes after it, and an idempotency key or none."""
    bodies = {
        "application/json": {"schema": {"$ref": _REF.format(model=InferRequest.__name__)}},
        BINARY_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}},
    }
    length = {"type": "integer", "minimum": 0}
    return {
        "requestBody": {"required": True, "content": bodies},
        "parameters": [_header(IDEMPOTENCY_KEY_HEADER, _KEY), _header(HEADER_LENGTH_HEADER, length)],
    }


def _header(name: str, schema: Mapping[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "schema": schema}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of `app`."""
    made = get_openapi(title="Blackbox TI", version=PROTOCOL_VERSION, routes=app.routes)
    _, definitions = models_json_schema([(model, "validation") for model in _EXTRA_MODELS], ref_template=_REF)
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name, schema in definitions["$defs"].items():
        schemas.setdefault(name, schema)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for operations in made["paths"].values():
        for operation in operations.values():
            if "401" in operation["responses"]:
                operation["security"] = [{"key": []}]
    return made
