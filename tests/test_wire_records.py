"""What the protocol's records have in common: bounds of fields, and fields that are not known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from blackbox_ti.wire_records import Finite, Hex256, NonNegative, Positive, Prompt, Record, Request, Seed, ShortText


class Told(Record):
    """A host's record of one field."""

    n: int


class Asked(Request):
    """A client's record of one field."""

    n: int


@given(st.dictionaries(st.text(max_size=9), st.integers(), max_size=4))
def test_a_hosts_unknown_fields_are_ignored_and_a_clients_refused(others: dict[str, int]) -> None:
    """A newer host may say more; a client that says more is mistaken."""
    fields = others | {"n": 1}
    assert Told.model_validate(fields) == Told(n=1)
    if set(fields) == {"n"}:
        assert Asked.model_validate(fields) == Asked(n=1)
    else:
        with pytest.raises(ValidationError):
            Asked.model_validate(fields)


@pytest.mark.parametrize("kind", [Told, Asked])
def test_records_do_not_change(kind: type[Told | Asked]) -> None:
    """What was validated stays so."""
    record = kind(n=1)
    with pytest.raises(ValidationError):
        setattr(record, "n", 2)  # noqa: B010 - a checker would see it


@pytest.mark.parametrize(
    ("kind", "within", "beyond"),
    [
        (Finite, [0.0, -1e308], [float("nan"), float("inf"), float("-inf"), "much"]),
        (NonNegative, [0, 2**80], [-1, 0.5, None]),
        (Positive, [1], [0, -1]),
        (Seed, [0, 2**63 - 1], [-1, 2**63]),
        (ShortText, ["", "a" * 256], ["a" * 257, 3]),
        (Prompt, ["", "a" * 2000], ["a" * 2001]),
        (Hex256, ["0123456789abcdef" * 4], ["a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n"]),
    ],
)
def test_fields_have_their_bounds(kind: Any, within: list[Any], beyond: list[Any]) -> None:
    """The last that is taken and the first that is not."""
    field: TypeAdapter[Any] = TypeAdapter(kind)
    for value in within:
        assert field.validate_python(value) == value
    for value in beyond:
        with pytest.raises(ValidationError):
            field.validate_python(value)
