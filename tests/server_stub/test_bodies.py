"""Tests of the way from bytes to a record."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blackbox_ti.wire import LossRequest, ProblemCode
from server_stub.bodies import parse
from server_stub.problems import ProblemError, describe_validation
from tests.server_stub.served import loss_body

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def depth(value: Any) -> int:
    """Return how deep a value's lists and objects are nested."""
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(value=JSON, indent=st.sampled_from([None, 1]))
def test_the_depth_limit_counts_brackets_outside_strings(value: Any, indent: int | None) -> None:
    """A body is too deep exactly when its value is nested deeper than the limit, whatever its strings hold."""
    body = json.dumps({"surprise": value}, indent=indent).encode()
    for limit in (depth(value), depth(value) + 1):
        with pytest.raises(ProblemError) as caught:
            parse(LossRequest, body, max_depth=limit)
        assert ("nested" in caught.value.detail) == (limit == depth(value))


@given(body=st.binary(max_size=200))
def test_any_bytes_are_refused_as_a_problem(body: bytes) -> None:
    """Bytes from a stranger raise the one typed error, with status 400 or 422."""
    with pytest.raises(ProblemError) as caught:
        parse(LossRequest, body, max_depth=16)
    assert (caught.value.code, caught.value.status in {400, 422}) == (ProblemCode.INVALID_REQUEST, True)


@given(cut=st.integers(1, 400))
def test_a_cut_body_is_not_json(cut: int) -> None:
    """Whatever is cut off a good request's end, the rest is refused as no JSON."""
    body = json.dumps(loss_body("c")).encode()
    with pytest.raises(ProblemError) as caught:
        parse(LossRequest, body[:-cut], max_depth=16)
    assert caught.value.status == 400


def test_a_good_body_is_its_record() -> None:
    """A request as a client sends it comes through whole."""
    assert parse(LossRequest, json.dumps(loss_body("c")).encode(), max_depth=16).model_dump() == loss_body("c")


def test_what_was_wrong_is_said_without_repeating_it() -> None:
    """A refusal names the field and the rule, and never the value."""
    body = loss_body("c") | {"samples": "secret", "prompts": ["secret" * 1000]}
    with pytest.raises(ProblemError) as caught:
        parse(LossRequest, json.dumps(body).encode(), max_depth=16)
    assert "samples" in caught.value.detail
    assert "secret" not in caught.value.detail


def test_a_long_list_of_mistakes_is_cut_short() -> None:
    """Only the first few mistakes are told, each place cut to a fair length."""
    with pytest.raises(ValidationError) as caught:
        LossRequest.model_validate({"x" * 500 + str(index): 1 for index in range(20)})
    told = describe_validation(caught.value)
    assert "more" in told
    assert len(told) < 1000
