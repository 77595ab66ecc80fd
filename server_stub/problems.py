"""Errors as the wire carries them: RFC 9457 problem details with a stable code.

what went wrong                       raised as                 answered with
a rule of the protocol is broken      ProblemError              its code's status
the framework found no such route     HTTPException             404, 405
a query parameter does not validate   RequestValidationError    422 invalid_request
the books cannot be read or written   BooksUnavailableError     503 overloaded
anything else                         any exception             500 internal, details in the log only
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from blackbox_ti.wire import PROBLEM_MEDIA_TYPE, Problem, ProblemCode

__all__ = ["ProblemError", "describe_validation", "problem_response", "status_of", "validated"]

RecordT = TypeVar("RecordT", bound=BaseModel)


@dataclass(frozen=True)
class _Kind:
    status: int
    title: str
    retryable: bool = False


_KINDS: Final[Mapping[ProblemCode, _Kind]] = {
    ProblemCode.INVALID_REQUEST: _Kind(422, "The request is not what the protocol says"),
    ProblemCode.INVALID_TENSOR: _Kind(422, "A tensor is not what the model takes"),
    ProblemCode.INVALID_IMAGE: _Kind(422, "A picture cannot be read"),
    ProblemCode.LIMIT_EXCEEDED: _Kind(422, "The request is over a limit of the model card"),
    ProblemCode.PLACEHOLDER_TAKEN: _Kind(422, "The placeholder already is a token"),
    ProblemCode.CONCEPT_NOT_FOUND: _Kind(404, "No such concept"),
    ProblemCode.NOT_FOUND: _Kind(404, "No such route"),
    ProblemCode.METHOD_NOT_ALLOWED: _Kind(405, "The route has no such method"),
    ProblemCode.UNAUTHENTICATED: _Kind(401, "A valid key is needed"),
    ProblemCode.FORBIDDEN: _Kind(403, "The key lacks the scope"),
    ProblemCode.NOT_OFFERED: _Kind(404, "This host does not offer that"),
    ProblemCode.IDEMPOTENCY_KEY_MISSING: _Kind(400, "An idempotency key is needed"),
    ProblemCode.IDEMPOTENCY_KEY_IN_FLIGHT: _Kind(409, "The same request is still in flight", retryable=True),
    ProblemCode.IDEMPOTENCY_KEY_REUSED: _Kind(422, "The idempotency key belongs to another request"),
    ProblemCode.BUDGET_SPENT: _Kind(402, "The account's budget does not allow the request"),
    ProblemCode.RATE_LIMITED: _Kind(429, "Too many requests", retryable=True),
    ProblemCode.OVERLOADED: _Kind(503, "The host is too busy", retryable=True),
    ProblemCode.NOT_READY: _Kind(503, "The host is not ready", retryable=True),
    ProblemCode.BODY_TOO_LARGE: _Kind(413, "The body is too large"),
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: _Kind(415, "The body has to be JSON"),
    ProblemCode.INTERNAL: _Kind(500, "The host failed", retryable=True),
}


class ProblemError(Exception):
    """A request that is refused; `status` overrides the code's own, `retry_after` is in seconds."""

    def __init__(
        self,
        code: ProblemCode,
        detail: str = "",
        *,
        status: int | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail or code.value)
        self.code = code
        self.detail = detail
        self.status = _KINDS[code].status if status is None else status
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(math.ceil(retry_after))


def status_of(code: ProblemCode) -> int:
    """Return the HTTP status a code is answered with."""
    return _KINDS[code].status


def problem_response(error: ProblemError, request_id: str | None) -> Response:
    """Return `error` as an `application/problem+json` response."""
    kind = _KINDS[error.code]
    problem = Problem(
        type=f"urn:blackbox-ti:problem:{error.code.value}",
        title=kind.title,
        status=error.status,
        detail=error.detail[:4000],
        code=error.code.value,
        retryable=kind.retryable,
        request_id=request_id,
    )
    return Response(problem.model_dump_json(), error.status, error.headers, PROBLEM_MEDIA_TYPE)


def describe_validation(error: ValidationError, *, most: int = 5) -> str:
    """Return where a record does not validate and why, without repeating what was sent."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(_shown(part) for part in e['loc']) or 'body'}: {e['msg']}" for e in found[:most]]
    return "; ".join(lines) + (f"; and {len(found) - most} more" if len(found) > most else "")


def validated(kind: type[RecordT], value: Any) -> RecordT:
    """Return `value` as a record.

    Raises:
        ProblemError: it is no such record; the detail says where and why.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise ProblemError(ProblemCode.INVALID_REQUEST, describe_validation(error)) from error


def _shown(part: int | str) -> str:
    """Return one step of a location; a name the client chose is cut short."""
    return str(part)[:64]
