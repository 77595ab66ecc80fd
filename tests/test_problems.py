"""From a host's refusals to our errors."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.errors import (
    AuthError,
    BlackboxTIError,
    BudgetSpentError,
    ImageError,
    OverloadedError,
    PlaceholderError,
    ProtocolError,
    RejectedError,
)
from blackbox_ti.problems import BUSY_STATUSES, error_from, has_code, is_retryable, parse_problem, printable
from blackbox_ti.wire import Problem, ProblemCode


def problem(status: int, code: str, **fields: object) -> Problem:
    """Return a problem document."""
    return Problem.model_validate({"status": status, "code": code, **fields})


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "unauthenticated", AuthError),
        (403, "forbidden", AuthError),
        (402, "budget_spent", BudgetSpentError),
        (429, "budget_spent", BudgetSpentError),
        (400, "placeholder_taken", PlaceholderError),
        (400, "invalid_image", ImageError),
        (400, "invalid_tensor", RejectedError),
        (422, "idempotency_key_reused", RejectedError),
        (409, "idempotency_key_in_flight", OverloadedError),
        (429, "rate_limited", OverloadedError),
        (503, "overloaded", OverloadedError),
        (503, "not_ready", OverloadedError),
        (500, "internal", OverloadedError),
        (501, "brand_new_code", RejectedError),
        (503, "brand_new_code", OverloadedError),
    ],
)
def test_each_code_is_its_error(status: int, code: str, kind: type[BlackboxTIError]) -> None:
    """A problem's code decides the error; an unknown code is judged by whether its status is a busy one."""
    assert type(error_from(status, problem(status, code, detail="why"))) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthError), (404, ProtocolError), (302, ProtocolError), (502, OverloadedError), (418, RejectedError)],
)
def test_a_status_without_a_problem_is_judged_by_itself(status: int, kind: type[BlackboxTIError]) -> None:
    """A refusal that is no problem document came from a proxy or another kind of server."""
    assert type(error_from(status, None)) is kind


def test_every_code_of_the_protocol_has_an_error() -> None:
    """No code of the protocol ends in anything but a typed error."""
    assert all(isinstance(error_from(400, problem(400, code, detail="x")), BlackboxTIError) for code in ProblemCode)


@pytest.mark.parametrize("status", sorted(BUSY_STATUSES))
def test_busy_statuses_are_retried_unless_the_budget_is_spent(status: int) -> None:
    """Busy is worth asking again, with or without a problem; a spent budget never is."""
    assert is_retryable(status, None)
    assert is_retryable(status, problem(status, "overloaded"))
    assert not is_retryable(status, problem(status, "budget_spent"))


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 405, 410, 413, 422, 501, 505])
def test_other_statuses_are_not_retried(status: int) -> None:
    """What asking again cannot change is not asked again, whatever the problem says of itself."""
    assert not is_retryable(status, None)
    assert not is_retryable(status, problem(status, "rate_limited", retryable=True))


def test_a_conflict_is_retried_only_while_the_key_is_in_flight() -> None:
    """409 is retried for the key in flight and for nothing else."""
    assert is_retryable(409, problem(409, "idempotency_key_in_flight"))
    assert not is_retryable(409, problem(409, "invalid_request"))
    assert not is_retryable(409, None)


def test_a_problem_that_disagrees_with_its_status_is_none() -> None:
    """A body that says another status was not written for this reply."""
    body = json.dumps({"status": 400, "code": "budget_spent"}).encode()
    assert parse_problem(400, body) is not None
    assert parse_problem(429, body) is None


@given(st.integers(300, 599), st.binary(max_size=300) | st.text().map(str.encode))
def test_any_body_is_a_problem_or_none(status: int, body: bytes) -> None:
    """Whatever a host sends, parsing it gives a problem or nothing, and the error is a typed one."""
    assert isinstance(error_from(status, parse_problem(status, body)), BlackboxTIError)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.integers(300, 599),
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("status", "code", "title", "detail", "type", "retryable", "request_id"), JSON)
    ),
)
def test_any_json_is_a_problem_or_none(status: int, fields: dict[str, object]) -> None:
    """Fields of any JSON type are a problem or nothing."""
    body = json.dumps({"status": status, **fields}).encode()
    assert isinstance(error_from(status, parse_problem(status, body)), BlackboxTIError)


def test_deep_nesting_and_long_bodies_are_none() -> None:
    """A body made to exhaust the parser is no problem document."""
    assert parse_problem(400, b"[" * 60_000) is None
    assert parse_problem(400, json.dumps({"status": 400, "code": "x", "detail": "y" * 100_000}).encode()) is None


@given(st.text(max_size=2000))
def test_a_hosts_words_are_fit_for_a_terminal(text: str) -> None:
    """No control character or line break of a host's reaches the terminal, and no more than 500 characters."""
    shown = printable(text)
    assert len(shown) <= 500
    assert all(c.isprintable() for c in shown)


def test_an_error_keeps_the_problem_and_cleans_its_words() -> None:
    """The error carries the problem for programs and a clean line for people."""
    told = problem(400, "invalid_tensor", detail="bad\x1b[31m\nrow", request_id="r-1")
    error = error_from(400, told)
    assert isinstance(error, RejectedError)
    assert error.problem is told
    assert "\x1b" not in str(error)
    assert "\n" not in str(error)
    assert "r-1" in str(error)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RejectedError), (401, AuthError), (403, AuthError), (404, RejectedError), (503, OverloadedError)],
)
def test_other_protocols_errors_are_told(status: int, kind: type[Exception]) -> None:
    """`{"error": "why"}`, as inference servers say it, is the same kind of error and tells why, cut to one line."""
    problem = parse_problem(status, b'{"error": "no such\\ntensor"}')
    error = error_from(status, problem)
    assert type(error) is kind
    assert "no such tensor" in str(error)


def test_an_error_that_is_no_text_is_no_problem() -> None:
    """Nested errors are not guessed at."""
    assert parse_problem(400, b'{"error": {"a": 1}}') is None


def test_an_error_is_known_by_the_hosts_own_code() -> None:
    """Where the host gave no account of it, it has no code."""
    told = RejectedError("no", problem=Problem(status=404, code="concept_not_found"))
    assert has_code(told, {ProblemCode.CONCEPT_NOT_FOUND, ProblemCode.NOT_OFFERED})
    assert not has_code(told, {ProblemCode.NOT_OFFERED})
    assert not has_code(RejectedError("no"), {ProblemCode.CONCEPT_NOT_FOUND})
