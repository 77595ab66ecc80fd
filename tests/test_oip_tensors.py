"""Tests of tensors made for a declared shape and datatype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.errors import InputError, ProtocolError
from blackbox_ti.oip_mapping import LossModel, Signature
from blackbox_ti.oip_tensors import loss_tensors, losses_of, ranking_of
from blackbox_ti.oip_wire import TensorMetadata
from blackbox_ti.wire import LossRequest, Sample, encode_tensor
from tests.fake_host import png

PNG = png()


def model(layout: str = "grid", **inputs: str) -> LossModel:
    """Return a model with the inputs e, p, t and s, and more."""
    named = {"embeddings": {"clip": "e"}, "prompts": "p", "t": "t", "seed": "s", **inputs}
    return LossModel.model_validate(
        {"model": "m", "layout": layout, "inputs": named, "outputs": {"losses": "l", "candidates": "c"}}
    )


def request(candidates: int = 2, samples: int = 3, seed: int = 5) -> LossRequest:
    """Return a request whose embeddings and samples count up."""
    values = np.arange(candidates * 2, dtype=np.float32).reshape(candidates, 1, 2)
    bank = [Sample(image=0, prompt=i % 2, t=(i + 1) / (samples + 1), seed=seed + i) for i in range(samples)]
    return LossRequest(
        concept="c",
        placeholder_token="<x>",
        embeddings={"clip": encode_tensor(values)},
        prompts=["a", "b"],
        samples=bank,
    )


def declared(name: str, datatype: str, shape: list[int]) -> Signature:
    """Return a signature of one tensor."""
    return {name: TensorMetadata(name=name, datatype=datatype, shape=shape)}


def made(asked: LossRequest, mapped: LossModel, signature: Signature | None = None) -> dict[str, Any]:
    """Return the inputs for one picture of 8 pixels a side."""
    return loss_tensors(asked, [PNG], mapped, signature or {}, 8)


@given(candidates=st.integers(1, 4), samples=st.integers(1, 5))
def test_rows_are_the_grid_written_out(candidates: int, samples: int) -> None:
    """Row c * n + i holds candidate c and sample i, in every tensor."""
    grid = made(request(candidates, samples), model(pictures="f", image="fi", prompt="pi", placeholder_token="w"))
    rows = made(request(candidates, samples), model("rows", pictures="f", placeholder_token="w"))
    for c in range(candidates):
        for i in range(samples):
            row = c * samples + i
            np.testing.assert_array_equal(rows["e"][row], grid["e"][c])
            assert (rows["t"][row], rows["s"][row]) == (grid["t"][i], grid["s"][i])
            assert rows["p"][row] == grid["p"][grid["pi"][i]]
            assert rows["f"][row] == grid["f"][grid["fi"][i]]
            assert rows["w"][row] == grid["w"][0]
    assert {len(tensor) for tensor in rows.values()} == {candidates * samples}


def test_without_an_index_what_it_points_to_is_repeated() -> None:
    """A prompt for each sample, where the host has no way to be told which."""
    assert list(made(request(), model())["p"]) == [b"a", b"b", b"a"]


@pytest.mark.parametrize(
    ("datatype", "shape", "expected"),
    [("INT32", [-1], (3,)), ("UINT64", [-1, 1], (3, 1)), ("INT64", [3], (3,)), ("FP64", [-1, 1, 1], (3, 1, 1))],
)
def test_a_tensor_takes_the_declared_datatype_and_rank(
    datatype: str, shape: list[int], expected: tuple[int, ...]
) -> None:
    """Axes of length 1 are added where a host declares them."""
    seeds = made(request(), model(), declared("s", datatype, shape))["s"]
    assert seeds.shape == expected
    assert [int(s) for s in seeds.ravel()] == [5, 6, 7]


def test_one_vector_needs_no_axis() -> None:
    """A host that takes (B, D) is given it."""
    assert made(request(), model(), declared("e", "FP32", [-1, 2]))["e"].shape == (2, 2)


@pytest.mark.parametrize(
    ("name", "datatype", "shape", "told"),
    [
        ("e", "FP32", [-1, -1, 3], "shape"),
        ("t", "FP32", [4], "shape"),
        ("s", "INT64", [], "shape"),
        ("t", "INT64", [-1], "does not fit"),
        ("s", "UINT8", [-1], "does not fit"),
        ("p", "FP32", [-1], "cannot hold"),
        ("s", "BOOL", [-1], "cannot hold"),
        ("s", "BF16", [-1], "cannot hold"),
    ],
)
def test_what_a_model_declares_and_cannot_take_is_an_input_error(
    name: str, datatype: str, shape: list[int], told: str
) -> None:
    """Nothing is cut, wrapped or rounded to fit."""
    with pytest.raises(InputError, match=told):
        made(request(seed=300), model(), declared(name, datatype, shape))


def test_pictures_are_pixels_where_the_model_says_so() -> None:
    """UINT8 of the model's resolution, else the files as they are."""
    assert made(request(), model(pictures="f", image="i"))["f"].tolist() == [PNG]
    pixels = made(request(), model(pictures="f", image="i"), declared("f", "UINT8", [-1, 8, 8, 3]))["f"]
    assert (pixels.shape, pixels[0, 0, 0].tolist()) == ((1, 8, 8, 3), [200, 30, 30])
    with pytest.raises(InputError, match="FP32"):
        made(request(), model(pictures="f", image="i"), declared("f", "FP32", [-1, 8, 8, 3]))


def test_a_picture_that_is_not_there_is_an_input_error() -> None:
    """Where pictures are repeated by index, the index has to exist."""
    asked = request().model_copy(update={"samples": [Sample(image=1, prompt=0, t=0.5, seed=1)]})
    with pytest.raises(InputError, match="number 1 of 1"):
        made(asked, model(pictures="f"))


def test_losses_may_be_for_some_candidates_alone() -> None:
    """The output that lists them says for which."""
    outputs = {"l": np.ones((2, 3), np.float64), "c": np.array([0, 2])}
    answered, losses = losses_of(outputs, model(), 3, 3)
    assert answered == [0, 2]
    assert losses.shape == (2, 3)
    assert losses.dtype == np.float32


@pytest.mark.parametrize("told", [np.array([2, 0]), np.array([0, 0]), np.array([0, 5]), np.array([0.0]), np.arange(9)])
def test_candidates_that_were_not_asked_are_no_answer(told: Any) -> None:
    """Out of order, twice, unknown, no whole numbers, too many."""
    with pytest.raises(ProtocolError):
        losses_of({"l": np.ones((len(told), 3)), "c": told}, model(), 3, 3)


def test_a_ranking_is_whole_numbers() -> None:
    """Whether it lists each candidate once is checked with the reply."""
    ranked = LossModel.model_validate(model().model_dump() | {"outputs": {"ranking": "r"}})
    assert ranking_of({"r": np.array([1, 0])}, ranked, 2) == ([0, 1], [1, 0])
    with pytest.raises(ProtocolError):
        ranking_of({"r": np.array([0.5])}, ranked, 2)
    with pytest.raises(ProtocolError, match="lacks"):
        ranking_of({"l": np.array([0])}, ranked, 2)
