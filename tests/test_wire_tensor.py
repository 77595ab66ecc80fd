"""Tensors on the wire: what is sent comes back, and what is not whole raises the wire's error alone."""

from __future__ import annotations

import base64
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pydantic import ValidationError

from blackbox_ti.errors import WireError
from blackbox_ti.wire_tensor import Tensor, decode_tensor, encode_tensor

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


@example("float32", [0, 2**40, 2**40], "")
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


@given(hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32)))
def test_a_decoded_tensor_is_the_callers_own(array: NDArray[np.float32]) -> None:
    """It can be written to, and shares no memory with what was read."""
    tensor = encode_tensor(array)
    decode_tensor(tensor)[...] = 7
    np.testing.assert_array_equal(decode_tensor(tensor), array)


@pytest.mark.parametrize("data", ["AAAAAA=", "AAAA!A==", " AAAAAA==", "AAAAAA==\n", "\u0410" * 6 + "=="])
def test_only_base64_is_read(data: str) -> None:
    """No padding too few, no blanks, no letters of another alphabet."""
    assert decode_tensor(Tensor(dtype="float32", shape=[1], data="AAAAAA==")) == 0
    with pytest.raises(WireError):
        decode_tensor(Tensor(dtype="float32", shape=[1], data=data))


def test_a_tensor_over_the_limit_is_refused_before_it_is_decoded() -> None:
    """The limit is in bytes on the wire: halves have twice the numbers of singles."""
    singles, halves = encode_tensor(np.zeros(4)), encode_tensor(np.zeros(8), "float16")
    for tensor in (singles, halves):
        assert decode_tensor(tensor, max_bytes=16).size * (4 if tensor is singles else 2) == 16
        with pytest.raises(WireError, match="longer"):
            decode_tensor(tensor, max_bytes=15)
    with pytest.raises(WireError, match="longer"):
        decode_tensor(singles.model_copy(update={"shape": [1]}))


@pytest.mark.parametrize("wrong", [{"dtype": "float64"}, {"dtype": "int32"}, {"shape": [-1]}, {"surprise": 1}])
def test_a_tensor_is_of_two_kinds_and_says_no_more(wrong: dict[str, object]) -> None:
    """float32 and float16, axes of no negative length, no other field."""
    sound = encode_tensor(np.zeros(1)).model_dump()
    assert Tensor.model_validate(sound)
    with pytest.raises(ValidationError):
        Tensor.model_validate(sound | wrong)
