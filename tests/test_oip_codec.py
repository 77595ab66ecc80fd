"""Tests of the inference protocol's tensors: laws of the codec, and its known bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from blackbox_ti.errors import WireError
from blackbox_ti.oip_codec import BASE64, DATATYPES, bytes_array, datatype_of, decode_tensors, encode_tensors
from blackbox_ti.oip_wire import InferTensor

NUMERIC = [name for name, dtype in DATATYPES.items() if dtype.kind != "O"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def arrays(draw: st.DrawFn, *, finite: bool = False) -> NDArray[Any]:
    """Draw an array of any datatype, BYTES with it."""
    name = draw(st.sampled_from([*NUMERIC, "BYTES"]))
    shape = draw(SHAPES)
    if name == "BYTES":
        return bytes_array(
            draw(st.lists(st.binary(max_size=9), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))), shape
        )
    dtype = DATATYPES[name]
    elements = hnp.from_dtype(dtype, allow_nan=not finite, allow_infinity=not finite) if dtype.kind == "f" else None
    return draw(hnp.arrays(dtype, shape, elements=elements))


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Return whether two arrays are of the same type, shape and bits."""
    if left.dtype.kind == "O":
        return right.dtype.kind == "O" and left.shape == right.shape and left.ravel().tolist() == right.ravel().tolist()
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@given(st.lists(arrays(), max_size=4))
def test_bytes_round_trip_to_the_bit(values: list[NDArray[Any]]) -> None:
    """Whatever the datatypes, NaN with its payload and empty axes included."""
    named = {f"t{i}": value for i, value in enumerate(values)}
    tensors, payload = encode_tensors(named, dict.fromkeys(named, True))
    decoded = decode_tensors(tensors, payload)
    assert all(same(decoded[name], value) for name, value in named.items())
    assert list(decoded) == list(named)


@given(arrays(finite=True))
def test_json_round_trips_to_the_bit(value: NDArray[Any]) -> None:
    """All that JSON can carry comes back, through its text and nested as well as flat."""
    if value.dtype == np.float16:
        return
    tensors, payload = encode_tensors({"x": value}, {})
    assert payload == b""
    sent = InferTensor.model_validate_json(tensors[0].model_dump_json())
    assert same(decode_tensors([sent], b"")["x"], value)
    if value.ndim > 1 and value.size and value.dtype.kind != "O":
        nested = sent.model_copy(update={"data": value.tolist()})
        assert same(decode_tensors([nested], b"")["x"], value)


@given(st.lists(arrays(), min_size=1, max_size=3), st.data())
def test_truncated_or_longer_bytes_raise_only_the_wires_error(values: list[NDArray[Any]], data: st.DataObject) -> None:
    """Every byte belongs to a tensor, and none is missing."""
    named = {f"t{i}": value for i, value in enumerate(values)}
    tensors, payload = encode_tensors(named, dict.fromkeys(named, True))
    wrong = data.draw(
        st.one_of(st.just(payload + b"\0"), st.integers(0, max(0, len(payload) - 1)).map(lambda n: payload[:n]))
    )
    if wrong != payload:
        with pytest.raises(WireError):
            decode_tensors(tensors, wrong)


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@given(
    datatype=st.one_of(st.sampled_from([*DATATYPES, "BF16", "fp32"]), st.text(min_size=1, max_size=5)),
    shape=st.lists(st.integers(0, 2**70), max_size=5),
    data=st.one_of(st.none(), st.lists(JSON_VALUES, max_size=5)),
    parameters=st.one_of(
        st.none(), st.fixed_dictionaries({"binary_data_size": st.one_of(st.integers(-3, 40), st.text(max_size=2))}),
        st.just({"content_type": BASE64}),
    ),
    payload=st.binary(max_size=40),
)  # fmt: skip
def test_whatever_a_host_sends_only_the_wires_error_is_raised(
    datatype: str, shape: list[int], data: Any, parameters: dict[str, Any] | None, payload: bytes
) -> None:
    """Shapes that no array can have, wrong types and lengths decode to the shape they say, or to `WireError`."""
    tensor = InferTensor(name="x", shape=shape, datatype=datatype, data=data, parameters=parameters)
    try:
        decoded = decode_tensors([tensor], payload)["x"]
    except WireError:
        return
    assert list(decoded.shape) == shape


def test_elements_of_bytes_have_their_length_before_them() -> None:
    """Four bytes, little-endian, as the extension's documentation has it."""
    _, payload = encode_tensors({"x": bytes_array([b"ab", b""])}, {"x": True})
    assert payload == b"\x02\0\0\0ab\0\0\0\0"


def test_numbers_are_little_endian_without_padding() -> None:
    """Rows after each other, whatever the array's own order in memory."""
    _, payload = encode_tensors({"x": np.array([[1, 2], [3, 4]], dtype=">i2").T}, {"x": True})
    assert payload == b"\x01\0\x03\0\x02\0\x04\0"


def test_text_travels_as_text_and_other_bytes_as_base64() -> None:
    """A prompt can be read in the JSON; a picture says how it is encoded."""
    (text, picture), _ = encode_tensors({"p": bytes_array(["ü".encode()]), "i": bytes_array([b"\x89PNG"])}, {})
    assert text.data == ["ü"]
    assert (picture.data, picture.parameters) == (["iVBORw=="], {"content_type": "base64"})


def test_a_null_among_floats_is_a_nan() -> None:
    """Hosts that have no NaN in JSON write null."""
    decoded = decode_tensors([InferTensor(name="x", shape=[2], datatype="FP32", data=[None, 1])], b"")["x"]
    assert np.isnan(decoded[0])
    assert decoded[1] == 1


@pytest.mark.parametrize("value", [np.array([np.nan], np.float32), np.array([1], np.float16), np.array([1 + 2j])])
def test_what_json_cannot_carry_is_not_sent(value: NDArray[Any]) -> None:
    """NaN, half precision and complex numbers raise before anything leaves."""
    with pytest.raises(WireError):
        encode_tensors({"x": value}, {})


@pytest.mark.parametrize(
    ("datatype", "data"), [("UINT8", [256]), ("INT8", [-129]), ("UINT64", [-1]), ("INT64", [2**63])]
)
def test_a_number_outside_its_datatype_is_refused(datatype: str, data: list[int]) -> None:
    """Nothing wraps around."""
    with pytest.raises(WireError, match="fit"):
        decode_tensors([InferTensor(name="x", shape=[1], datatype=datatype, data=data)], b"")


def test_a_name_that_comes_twice_is_refused() -> None:
    """Which of them would be meant is not guessed."""
    tensor = InferTensor(name="x", shape=[1], datatype="FP32", data=[1])
    with pytest.raises(WireError, match="twice"):
        decode_tensors([tensor, tensor], b"")


@pytest.mark.parametrize("name", [*NUMERIC, "BYTES"])
def test_every_datatype_has_one_array_type(name: str) -> None:
    """The protocol's names and NumPy's are each other's inverse."""
    assert datatype_of(np.empty(0, DATATYPES[name])) == name
