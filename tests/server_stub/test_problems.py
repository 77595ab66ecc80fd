"""Tests of problem details."""

from __future__ import annotations

import pytest

from blackbox_ti.wire import Problem, ProblemCode, Sample
from server_stub.problems import ProblemError, problem_response, status_of, validated

RETRYABLE = {429, 500, 503}


@pytest.mark.parametrize("code", list(ProblemCode))
def test_every_code_has_a_status_and_a_form(code: ProblemCode) -> None:
    """Each code is answered with an error status as a problem that a client can read."""
    response = problem_response(ProblemError(code, "why", retry_after=0.2), "id")
    problem = Problem.model_validate_json(bytes(response.body))
    assert (problem.code, problem.status, problem.detail, problem.request_id) == (code, status_of(code), "why", "id")
    assert 400 <= problem.status < 600
    assert problem.title
    assert response.headers["retry-after"] == "1"
    assert problem.retryable == (problem.status in RETRYABLE or code is ProblemCode.IDEMPOTENCY_KEY_IN_FLIGHT)


def test_a_spent_budget_is_no_matter_of_rate() -> None:
    """A spent budget has a status that no client's retry list holds."""
    assert status_of(ProblemCode.BUDGET_SPENT) == 402


def test_a_long_detail_is_cut_to_what_the_schema_allows() -> None:
    """A detail longer than the schema's limit is cut, not an error."""
    response = problem_response(ProblemError(ProblemCode.INTERNAL, "x" * 10_000), None)
    assert len(Problem.model_validate_json(bytes(response.body)).detail) == 4000


def test_what_is_no_record_is_a_problem_that_says_where() -> None:
    """It names the field, and repeats nothing of what was sent."""
    assert validated(Sample, {"image": 0, "prompt": 0, "t": 0.5, "seed": 1}).t == 0.5
    with pytest.raises(ProblemError, match="seed") as error:
        validated(Sample, {"image": 0, "prompt": 0, "t": 0.5, "seed": "secret"})
    assert error.value.code is ProblemCode.INVALID_REQUEST
    assert "secret" not in error.value.detail
