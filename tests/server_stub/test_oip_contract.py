"""Tensors to our own requests, and our own replies to tensors."""

from __future__ import annotations

import base64
import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from blackbox_ti.oip_card import ModelKind, told_card
from blackbox_ti.oip_codec import bytes_array, datatype_of
from blackbox_ti.wire import Charge, ImagesReply, LossReply, ModelCard, ProblemCode, decode_tensor, encode_tensor
from server_stub.hosting.model import HostedModel
from server_stub.oip_contract import (
    OPTIONAL_INPUTS,
    concept_of,
    images_outputs,
    images_request,
    loss_outputs,
    loss_request,
    model_metadata,
    pictures,
)
from server_stub.problems import ProblemError
from server_stub.settings import Settings
from tests.server_stub.fake_engine import DIM, FakeEngine
from tests.server_stub.inferences import file, image_arrays, loss_arrays, shown

CARD: ModelCard = HostedModel(FakeEngine(), Settings()).card
CHARGE = Charge(forwards=0, queries=0, price_micros=0)
SEEDS = st.integers(0, 2**63 - 1)


def _code(error: pytest.ExceptionInfo[ProblemError]) -> str:
    return str(error.value.code)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 2), st.just(DIM)), elements=st.floats(width=32)),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 9), SEEDS, st.floats(1e-6, 1, exclude_max=True)), min_size=1, max_size=4),
    st.sampled_from([(-1,), (-1, 1), (1, -1)]),
)
def test_a_request_says_what_its_tensors_say(
    embeddings: NDArray[np.float32],
    prompts: list[str],
    samples: list[tuple[int, int, float]],
    shape: tuple[int, ...],
) -> None:
    """Numbers to the bit, texts in any alphabet, and columns with or without an axis of length 1 after theirs."""
    shape = shape if shape[0] == -1 or len(samples) == 1 else (-1,)
    image, seed, t = zip(*samples, strict=True)
    arrays = loss_arrays(
        samples=len(samples),
        embeddings_text=embeddings,
        prompts=bytes_array([prompt.encode() for prompt in prompts]),
        image=np.array(image).reshape(shape),
        seed=np.array(seed).reshape(shape),
        t=np.array(t).reshape(shape),
    )
    asked = loss_request(arrays, "id")
    np.testing.assert_array_equal(decode_tensor(asked.embeddings["text"]), embeddings)
    assert (asked.concept, asked.placeholder_token, asked.prompts) == ("id", "<sks>", prompts)
    assert [(s.image, s.seed, s.t, s.prompt) for s in asked.samples] == [(*sample, 0) for sample in samples]


@settings(max_examples=50)
@given(st.sets(st.sampled_from(sorted(OPTIONAL_INPUTS))))
def test_what_may_be_left_out_has_the_protocols_default(given_inputs: set[str]) -> None:
    """Each on its own."""
    values: dict[str, Any] = {
        "num_inference_steps": 7, "guidance_scale": 2.5, "negative_prompt": "blur", "height": 16, "width": 24,
    }  # fmt: skip
    assert values.keys() == OPTIONAL_INPUTS
    required = {name: array for name, array in image_arrays().items() if name not in OPTIONAL_INPUTS}
    arrays = {
        name: bytes_array([value.encode()]) if isinstance(value, str) else np.array([value])
        for name, value in values.items()
        if name in given_inputs
    }
    plain, asked = images_request(required), images_request(required | arrays)
    for name, value in values.items():
        assert getattr(asked, name) == (value if name in given_inputs else getattr(plain, name))


@pytest.mark.parametrize("kind", list(ModelKind))
def test_every_input_is_declared_as_it_is_taken(kind: ModelKind) -> None:
    """The metadata's names and datatypes are those of a request that works; what it does not list is refused."""
    arrays = loss_arrays() | shown() if kind is ModelKind.LOSS else image_arrays()
    declared = {tensor.name: tensor for tensor in model_metadata(kind, CARD).inputs or []}
    assert declared.keys() - arrays.keys() <= OPTIONAL_INPUTS
    assert arrays.keys() <= declared.keys()
    for name, array in arrays.items():
        assert declared[name].datatype == datatype_of(array), name
        assert len(declared[name].shape) == array.ndim, name
    assert told_card(model_metadata(kind, CARD)) == CARD
    ask = (lambda given: loss_request(given, "id")) if kind is ModelKind.LOSS else images_request
    ask(arrays)
    with pytest.raises(ProblemError, match="no input 'surprise'") as error:
        ask(arrays | {"surprise": np.zeros(1)})
    assert _code(error) == ProblemCode.INVALID_REQUEST


@pytest.mark.parametrize("mode", ["exact", "rank"])
def test_every_output_is_declared_as_it_is_given(mode: str) -> None:
    """Losses, or ranks where the host tells ranks alone."""
    losses = encode_tensor(np.array([[0.5, 0.25]])) if mode == "exact" else None
    reply = LossReply(candidates=[1], losses=losses, ranking=None if losses else [1], charge=CHARGE)
    declared = {
        t.name: t for t in model_metadata(ModelKind.LOSS, CARD.model_copy(update={"reply_mode": mode})).outputs or []
    }
    found = loss_outputs(reply)
    assert found.keys() == declared.keys()
    assert all(declared[name].datatype == datatype_of(array) for name, array in found.items())
    assert found["candidates"].tolist() == [1]
    answer = found["losses"] if losses else found["ranking"]
    assert answer.tolist() == ([[0.5, 0.25]] if losses else [1])


@given(st.lists(st.none() | st.binary(min_size=1, max_size=20), max_size=4))
def test_pictures_go_out_as_files_and_a_rejected_one_as_no_bytes(files: list[bytes | None]) -> None:
    """In their order."""
    images = [None if one is None else base64.b64encode(one).decode() for one in files]
    assert list(images_outputs(ImagesReply(images=images, charge=CHARGE))["images"]) == [one or b"" for one in files]


def test_pictures_come_as_files_or_as_pixels() -> None:
    """Both are made the model's size; a request that names a concept brings none."""
    pixels = np.full((2, 40, 20, 3), 100, np.uint8)
    for array in (bytes_array([file(), file()]), pixels):
        found = pictures({"pictures": array}, CARD)
        assert found is not None
        assert [picture.size for picture in found] == [(CARD.resolution,) * 2] * 2
        assert found[0].getpixel((3, 3)) == (100, 100, 100)
    assert pictures({"concept": bytes_array([b"id"])}, CARD) is None
    assert concept_of({"concept": bytes_array([b"id"])}) == "id"


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({}, ProblemCode.INVALID_REQUEST),
        ({"pictures": bytes_array([file()]), "concept": bytes_array([b"id"])}, ProblemCode.INVALID_REQUEST),
        ({"pictures": bytes_array([])}, ProblemCode.LIMIT_EXCEEDED),
        ({"pictures": np.uint8(3)}, ProblemCode.LIMIT_EXCEEDED),
        ({"pictures": bytes_array([file()] * 21)}, ProblemCode.LIMIT_EXCEEDED),
        ({"pictures": bytes_array([b"no picture"])}, ProblemCode.INVALID_IMAGE),
        ({"pictures": np.zeros((1, 4100, 4100, 3), np.uint8)}, ProblemCode.INVALID_IMAGE),
        ({"pictures": np.zeros((1, 4, 4, 3))}, ProblemCode.INVALID_TENSOR),
        ({"pictures": np.zeros((1, 4, 4), np.uint8)}, ProblemCode.INVALID_TENSOR),
    ],
)
def test_pictures_that_cannot_be_are_refused(arrays: dict[str, Any], code: ProblemCode) -> None:
    """Each for its own reason."""
    with pytest.raises(ProblemError) as error:
        pictures(arrays, CARD)
    assert _code(error) == code


WRONG: list[tuple[dict[str, Any], ProblemCode, str]] = [
    ({"t": None}, ProblemCode.INVALID_REQUEST, "t is missing"),
    ({"t": np.array([1, 2])}, ProblemCode.INVALID_TENSOR, "t has another"),
    ({"t": np.full((2, 2), 0.5)}, ProblemCode.INVALID_TENSOR, "t has another"),
    ({"seed": np.float64(3)}, ProblemCode.INVALID_TENSOR, "seed has another"),
    ({"seed": np.arange(3)}, ProblemCode.INVALID_TENSOR, "same length"),
    ({"t": np.array([0.5, 1.5])}, ProblemCode.INVALID_REQUEST, "t"),
    ({"prompt": np.array([0, 1])}, ProblemCode.INVALID_REQUEST, "prompt"),
    ({"prompts": bytes_array([b"\xff"])}, ProblemCode.INVALID_TENSOR, "not UTF-8"),
    ({"placeholder_token": bytes_array([b"a", b"b"])}, ProblemCode.INVALID_TENSOR, "one element"),
    ({"embeddings_text": np.ones((1, DIM), np.float32)}, ProblemCode.INVALID_TENSOR, "candidates, vectors, width"),
]


@pytest.mark.parametrize(("changes", "code", "told"), WRONG)
def test_tensors_that_are_no_request_are_refused(changes: dict[str, Any], code: ProblemCode, told: str) -> None:
    """The problem names the input, and nothing else is raised."""
    loss_request(loss_arrays(), "id")
    with pytest.raises(ProblemError, match=told) as error:
        loss_request(loss_arrays(**changes), "id")
    assert _code(error) == code


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(loss_arrays())),
    hnp.arrays(
        st.sampled_from([np.dtype(d) for d in ("f4", "f8", "i4", "i8", "u1", "?")]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
)
def test_whatever_arrays_come_only_problems_are_raised(name: str, array: NDArray[Any]) -> None:
    """Any dtype and shape in any place is a request or a problem."""
    with contextlib.suppress(ProblemError):
        assert loss_request(loss_arrays() | {name: array}, "id").concept == "id"
