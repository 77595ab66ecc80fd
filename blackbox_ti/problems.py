"""From a host's refusal to a typed error, by one table.

What a host writes is untrusted: it is parsed defensively, cut short and stripped of control characters before a
terminal or a log sees it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from pydantic import BaseModel, ValidationError

from blackbox_ti.errors import (
    AuthError,
    BlackboxTIError,
    BudgetSpentError,
    EndpointError,
    ImageError,
    InputError,
    OverloadedError,
    PlaceholderError,
    ProtocolError,
    RejectedError,
)
from blackbox_ti.wire import Problem, ProblemCode

__all__ = [
    "BUSY_STATUSES",
    "MAX_PROBLEM_BYTES",
    "ProblemInReply",
    "error_from",
    "has_code",
    "is_retryable",
    "parse_problem",
    "printable",
]

BUSY_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
MAX_PROBLEM_BYTES: Final = 65_536
_MAX_SHOWN: Final = 500

_INPUT_ERRORS: Final[dict[str, type[InputError]]] = {
    ProblemCode.PLACEHOLDER_TAKEN: PlaceholderError,
    ProblemCode.INVALID_IMAGE: ImageError,
}
_ENDPOINT_ERRORS: Final[dict[str, type[EndpointError]]] = {
    ProblemCode.UNAUTHENTICATED: AuthError,
    ProblemCode.FORBIDDEN: AuthError,
    ProblemCode.IDEMPOTENCY_KEY_IN_FLIGHT: OverloadedError,
    ProblemCode.RATE_LIMITED: OverloadedError,
    ProblemCode.OVERLOADED: OverloadedError,
    ProblemCode.NOT_READY: OverloadedError,
    ProblemCode.INTERNAL: OverloadedError,
}
_FOREIGN_CODES: Final[dict[int, str]] = {
    401: ProblemCode.UNAUTHENTICATED,
    403: ProblemCode.FORBIDDEN,
    404: ProblemCode.NOT_FOUND,
}
_ADVICE: Final[dict[type[BlackboxTIError], str]] = {
    AuthError: "give a key that is valid there and has the scope for this",
    OverloadedError: "try again later",
}


class ProblemInReply(Exception):  # noqa: N818 (the host's words, which become an error where they are read)
    """A refusal inside a reply of status 200, from hosts that cannot choose the status."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


class _ForeignError(BaseModel):
    """The error of protocols that say why in one string."""

    error: str


def printable(text: str, limit: int = _MAX_SHOWN) -> str:
    """Return a host's words fit for a terminal: one line, no control characters, at most `limit` characters."""
    return "".join(c if c.isprintable() else " " for c in text[:limit]).strip()


def parse_problem(status: int, body: bytes) -> Problem | None:
    """Return the problem in an error reply, or None where the body is not one or disagrees with the status.

    Other protocols' `{"error": "why"}` is read too: the Open Inference Protocol's, and that of hosted endpoints.
    """
    if len(body) > MAX_PROBLEM_BYTES:
        return None
    try:
        problem = Problem.model_validate_json(body)
    except (ValidationError, ValueError, RecursionError):
        return _foreign_problem(status, body)
    return problem if problem.status == status else None


def _foreign_problem(status: int, body: bytes) -> Problem | None:
    try:
        told = _ForeignError.model_validate_json(body).error
    except (ValidationError, ValueError, RecursionError):
        return None
    return Problem(status=status, detail=told[:_MAX_SHOWN], code=_FOREIGN_CODES.get(status, "error"))


def is_retryable(status: int, problem: Problem | None) -> bool:
    """Return whether asking again can help: a busy status or a key in flight, never a spent budget."""
    if problem is not None and problem.code == ProblemCode.BUDGET_SPENT:
        return False
    if status == 409:
        return problem is not None and problem.code == ProblemCode.IDEMPOTENCY_KEY_IN_FLIGHT
    return status in BUSY_STATUSES


def error_from(status: int, problem: Problem | None) -> BlackboxTIError:
    """Return the error that a reply of `status` (300 to 599) with its problem, if any, stands for."""
    if problem is None:
        return _error_without_problem(status)
    told = printable(problem.detail or problem.title) or "no reason given"
    if problem.code == ProblemCode.BUDGET_SPENT:
        return BudgetSpentError(f"the account's budget at the host is spent: {told}")
    if problem.code in _INPUT_ERRORS:
        return _INPUT_ERRORS[problem.code](told)
    kind = _ENDPOINT_ERRORS.get(problem.code, OverloadedError if is_retryable(status, problem) else RejectedError)
    request = f" (request {printable(problem.request_id, 80)})" if problem.request_id else ""
    advice = f"; {_ADVICE[kind]}" if kind in _ADVICE else ""
    return kind(f"the host answered {status} {printable(problem.code, 80)}: {told}{request}{advice}", problem=problem)


def has_code(error: EndpointError, codes: Collection[str]) -> bool:
    """Return whether the host's own account of an error names one of these codes."""
    return error.problem is not None and error.problem.code in codes


def _error_without_problem(status: int) -> BlackboxTIError:
    if status in {401, 403}:
        return AuthError(f"the host answered {status}; {_ADVICE[AuthError]}")
    if status in BUSY_STATUSES:
        return OverloadedError(f"the host answered {status}; {_ADVICE[OverloadedError]}")
    if 300 <= status < 400:
        return ProtocolError(f"the host redirects ({status}); redirects are not followed, give the final address")
    if status in {404, 405, 409}:
        return ProtocolError(f"not a Blackbox TI endpoint: it answered {status}; check the address")
    return RejectedError(f"the host answered {status} and gave no reason")
