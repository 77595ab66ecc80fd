import base64
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from blackbox_ti import wire
from blackbox_ti.errors import WireError
from blackbox_ti.wire import (
    ImageItem,
    ImagesRequest,
    LossReply,
    LossRequest,
    ModelCard,
    Sample,
    Tensor,
    decode_tensor,
    encode_tensor,
    images_cost,
    loss_cost,
)

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@given(hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32)))
def test_float32_round_trips_to_the_bit(array: NDArray[np.float32]) -> None:
    """Every float32 array, NaN and infinities too, comes back as it was sent, through JSON."""
    tensor = Tensor.model_validate_json(encode_tensor(array).model_dump_json())
    back = decode_tensor(tensor)
    assert back.shape == array.shape
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, array)


@given(hnp.arrays(np.float16, SHAPES, elements=st.floats(width=16)))
def test_float16_round_trips_to_the_bit(array: NDArray[np.float16]) -> None:
    """Every float16 array comes back exactly, widened to float32."""
    np.testing.assert_array_equal(decode_tensor(encode_tensor(array, "float16")), array.astype(np.float32))


@pytest.mark.parametrize("layout", ["big-endian", "fortran", "strided"])
def test_the_bytes_are_little_endian_in_c_order_whatever_the_array_is(layout: str) -> None:
    """Byte order and memory layout are the wire's, not the machine's."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    forms = {
        "big-endian": array.astype(">f4"),
        "fortran": np.asfortranarray(array),
        "strided": np.repeat(array, 2, 1)[:, ::2],
    }
    raw = base64.b64decode(encode_tensor(forms[layout]).data)
    assert raw == np.arange(6, dtype="<f4").tobytes()


def test_more_than_four_axes_are_refused() -> None:
    """A tensor has at most four axes, on the way out and on the way in."""
    with pytest.raises(WireError, match="at most 4"):
        encode_tensor(np.zeros((1, 1, 1, 1, 1)))
    with pytest.raises(ValidationError):
        Tensor(dtype="float32", shape=[1, 1, 1, 1, 1], data="AAAAAA==")


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4)), st.data())
def test_truncated_bytes_raise_only_the_wires_error(array: NDArray[np.float32], data: st.DataObject) -> None:
    """Whatever part of a tensor is lost, decoding fails with `WireError`."""
    tensor = encode_tensor(array)
    cut = data.draw(st.integers(0, len(tensor.data) - 1))
    with pytest.raises(WireError):
        decode_tensor(tensor.model_copy(update={"data": tensor.data[:cut]}))


@given(
    st.sampled_from(["float32", "float16"]),
    st.lists(st.integers(0, 2**70), max_size=4),
    st.text(max_size=64) | st.binary(max_size=48).map(lambda raw: base64.b64encode(raw).decode()),
)
def test_any_tensor_decodes_or_raises_the_wires_error(
    dtype: Literal["float32", "float16"], shape: list[int], text: str
) -> None:
    """Any shape and any text give an array of that shape or `WireError`, never another exception or a huge array."""
    try:
        array = decode_tensor(Tensor(dtype=dtype, shape=shape, data=text), max_bytes=1024)
    except WireError:
        return
    assert list(array.shape) == shape
    assert array.nbytes <= 2048


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


def test_a_hosts_unknown_fields_are_ignored_and_a_clients_refused() -> None:
    """A newer host may say more; a client that says more is mistaken."""
    charge = {"forwards": 1, "queries": 1, "price_micros": 0, "new": "field"}
    reply = {"candidates": [0], "losses": None, "ranking": [0], "charge": charge, "future": True}
    assert LossReply.model_validate(reply).charge.forwards == 1


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_loss_costs_add_up_over_any_split(candidates: int, samples: int) -> None:
    """Splitting a request by candidates changes no cost."""
    whole = loss_cost(candidates, samples)
    left, right = loss_cost(candidates // 2, samples), loss_cost(candidates - candidates // 2, samples)
    assert whole == (left[0] + right[0], left[1] + right[1])


@pytest.mark.parametrize(("guidance", "passes"), [(0.0, 1), (1.0, 1), (1.01, 2), (7.5, 2)])
def test_guidance_doubles_an_image(guidance: float, passes: int) -> None:
    """An image costs its steps, twice where guidance needs a second pass."""
    assert images_cost(3, 10, guidance) == (30 * passes, 3)


def test_every_public_name_is_there_and_sorted() -> None:
    """`__all__` names what the module has, in order."""
    assert all(hasattr(wire, name) for name in wire.__all__)
    assert len(set(wire.__all__)) == len(wire.__all__)
