"""From bytes to a record, each step with its own refusal.

Content-Type is not JSON           415 unsupported_media_type
Content-Length over the limit      413 body_too_large            (in `middleware`, before a byte is read)
the stream grows over the limit    413 body_too_large            (in `middleware`, while reading)
the stream stalls                  408 invalid_request
nested deeper than the limit       400 invalid_request
not JSON                           400 invalid_request
JSON, but not the record           422 invalid_request
"""

from __future__ import annotations

import asyncio
import re
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from blackbox_ti.wire import ProblemCode
from server_stub.problems import ProblemError, describe_validation

__all__ = ["parse", "read_json"]

RecordT = TypeVar("RecordT", bound=BaseModel)

_PUNCTUATION: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)


async def read_json(request: Request, *, timeout: float, also: str = "application/json") -> bytes:
    """Return the request's body, which says of itself that it is JSON, or of the media type `also`.

    Raises:
        ProblemError: it is neither by its Content-Type, or is not all there after `timeout` seconds.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in {"application/json", also}:
        raise ProblemError(ProblemCode.UNSUPPORTED_MEDIA_TYPE, "send the body with Content-Type: application/json")
    try:
        async with asyncio.timeout(timeout):
            return await request.body()
    except TimeoutError as error:
        detail = f"the body was not complete after {timeout:g} seconds; send it faster"
        raise ProblemError(ProblemCode.INVALID_REQUEST, detail, status=408, headers={"Connection": "close"}) from error
    except ClientDisconnect as error:
        raise ProblemError(ProblemCode.INVALID_REQUEST, "the body broke off", status=400) from error


def parse(record: type[RecordT], body: bytes, *, max_depth: int) -> RecordT:
    """Return `body` as a `record`.

    Raises:
        ProblemError: the body is too deep, not JSON, or not such a record.
    """
    if _depth(body) > max_depth:
        raise ProblemError(ProblemCode.INVALID_REQUEST, f"JSON is nested deeper than {max_depth}", status=400)
    try:
        return record.model_validate_json(body)
    except ValidationError as error:
        malformed = any(e["type"] == "json_invalid" for e in error.errors(include_url=False, include_input=False))
        detail = "the body is not JSON" if malformed else describe_validation(error)
        raise ProblemError(ProblemCode.INVALID_REQUEST, detail, status=400 if malformed else None) from error


def _depth(body: bytes) -> int:
    """Return how deep brackets outside strings are nested."""
    depth = deepest = 0
    for match in _PUNCTUATION.finditer(body):
        mark = body[match.start()]
        if mark in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in b"]}":
            depth -= 1
    return deepest
