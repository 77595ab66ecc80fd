"""Tests of what is known of an inference protocol's host once it was asked."""

from __future__ import annotations

import numpy as np
import pytest

from blackbox_ti.errors import InputError
from blackbox_ti.oip_host import OipHost, infer_message, model_path
from blackbox_ti.oip_mapping import EncoderEntry, OipMapping, contract
from tests.fake_host import FakeHost

ENTRIES = {"text": EncoderEntry(norm_mean=1, norm_std=0)}


def host(mapping: OipMapping, *extensions: str) -> OipHost:
    """Return a host with these extensions."""
    return OipHost(FakeHost().card, mapping, {"loss": {}, "images": {}}, frozenset(extensions))


def test_a_model_that_is_not_mapped_is_an_input_error() -> None:
    """The user is told what the host cannot do."""
    with pytest.raises(InputError, match="pictures alone"):
        _ = host(contract(ENTRIES, ["images"])).loss
    with pytest.raises(InputError, match="no pictures"):
        _ = host(contract(ENTRIES, ["loss"])).images


@pytest.mark.parametrize(
    ("stated", "extensions", "expected"),
    [
        (None, (), False),
        (None, ("binary_tensor_data",), True),
        (True, (), True),
        (False, ("binary_tensor_data",), False),
    ],
)
def test_tensors_are_bytes_where_the_mapping_or_else_the_host_says_so(
    stated: bool | None, extensions: tuple[str, ...], expected: bool
) -> None:
    """The mapping's word goes before the host's."""
    mapping = contract(ENTRIES).model_copy(update={"binary": stated})
    assert host(mapping, *extensions).binary is expected


def test_names_cannot_leave_their_place_in_the_path() -> None:
    """A slash in a name is part of the name."""
    model = contract(ENTRIES).loss
    assert model is not None
    other = model.model_copy(update={"model": "a/b", "version": "1/../2"})
    assert model_path(other) == "/v2/models/a%2Fb/versions/1%2F..%2F2"


def test_the_same_question_is_the_same_bytes() -> None:
    """Whatever the order in which its tensors were made: a host that knows keys compares the bodies."""
    model = contract(ENTRIES).loss
    assert model is not None
    tensors = {"b": np.array([1.0]), "a": np.array([2.0])}
    for binary in (False, True):
        messages = [
            infer_message(model, dict(t), "k", binary=binary) for t in (tensors.items(), reversed(tensors.items()))
        ]
        assert messages[0] == messages[1]
