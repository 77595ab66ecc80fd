"""The protocol's requests and replies: what is refused, and what the module shows."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from blackbox_ti import wire
from blackbox_ti.wire import (
    ImageItem,
    ImagesRequest,
    LossReply,
    LossRequest,
    ModelCard,
    Sample,
    Tensor,
    concept_digest,
    encode_tensor,
)


@given(st.text(max_size=100) | st.binary(max_size=100))
@pytest.mark.parametrize("kind", [Tensor, LossRequest, LossReply, ImagesRequest, ModelCard])
def test_any_bytes_are_a_record_or_a_validation_error(kind: type[BaseModel], body: str | bytes) -> None:
    """No body makes a record's parser raise anything but pydantic's own error."""
    with pytest.raises(ValidationError):
        kind.model_validate_json(body)


def request(**changes: Any) -> dict[str, Any]:
    """Return the fields of a sound loss request, changed."""
    return {
        "concept": "c",
        "placeholder_token": "<sks>",
        "embeddings": {"text": encode_tensor(np.zeros((1, 1, 2)))},
        "prompts": ["a <sks>"],
        "samples": [Sample(image=0, prompt=0, t=0.5, seed=1)],
        **changes,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": []},
        {"prompts": []},
        {"embeddings": {}},
        {"surprise": 1},
        {"samples": [Sample(image=0, prompt=1, t=0.5, seed=1)]},
        {"samples": [{"image": 0, "prompt": 0, "t": 0.0, "seed": 1}]},
        {"samples": [{"image": 0, "prompt": 0, "t": 1.0, "seed": 1}]},
        {"samples": [{"image": 0, "prompt": 0, "t": float("nan"), "seed": 1}]},
        {"samples": [{"image": 0, "prompt": 0, "t": 0.5, "seed": 2**63}]},
        {"samples": [{"image": -1, "prompt": 0, "t": 0.5, "seed": 1}]},
    ],
)
def test_unsound_loss_requests_are_refused(changes: dict[str, Any]) -> None:
    """Empty lists, unknown fields, prompts that are not there and times outside (0, 1) are mistakes."""
    LossRequest(**request())
    with pytest.raises(ValidationError):
        LossRequest(**request(**changes))


def test_an_item_names_a_prompt_that_is_there() -> None:
    """A picture of a prompt that is not in the request is a mistake."""
    fields = {k: v for k, v in request().items() if k not in {"concept", "samples"}}
    ImagesRequest(**fields, items=[ImageItem(candidate=0, prompt=0, seed=1)])
    with pytest.raises(ValidationError):
        ImagesRequest(**fields, items=[ImageItem(candidate=0, prompt=1, seed=1)])


def test_every_public_name_is_there_and_sorted() -> None:
    """`__all__` names what the module has, in order."""
    assert all(hasattr(wire, name) for name in wire.__all__)
    assert len(set(wire.__all__)) == len(wire.__all__)


@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_a_concepts_digest_is_its_pictures_in_their_order(one: list[bytes], other: list[bytes]) -> None:
    """Two lists of files have the same id exactly where they are the same, wherever the bytes are cut into files."""
    assert (concept_digest(one) == concept_digest(other)) == (one == other)
    whole = [b"".join(one)]
    assert (concept_digest(whole) == concept_digest(one)) == (len(one) == 1)


def test_a_concepts_digest_is_the_documented_one() -> None:
    """Another implementation gets the same id."""
    inner = hashlib.sha256(b"a").digest() + hashlib.sha256(b"b").digest()
    assert concept_digest([b"a", b"b"]) == hashlib.sha256(inner).hexdigest()
