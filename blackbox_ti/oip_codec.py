"""Tensors of the Open Inference Protocol, as JSON or as bytes after the JSON: pure functions.

Source: the protocol's binary tensor data extension (KServe's documentation). An array of datatype BYTES is a NumPy
object array of `bytes`; all others have the NumPy dtype of their datatype. In JSON, BYTES that are not UTF-8 travel as
base64 under the tensor's parameter `content_type`: `base64`.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.errors import WireError
from blackbox_ti.oip_wire import MAX_RANK, InferTensor

__all__ = ["BASE64", "DATATYPES", "bytes_array", "datatype_of", "decode_tensors", "encode_tensors"]

BASE64: Final = "base64"

DATATYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
_NAMES: Final = {dtype: name for name, dtype in DATATYPES.items()}
_JSON_KINDS: Final[Mapping[str, frozenset[type]]] = {
    "b": frozenset({bool}),
    "u": frozenset({int}),
    "i": frozenset({int}),
    "f": frozenset({int, float, type(None)}),
    "O": frozenset({str}),
}
_MAX_ELEMENTS: Final = 2**40

Array = NDArray[Any]


def bytes_array(items: Sequence[bytes], shape: Sequence[int] | None = None) -> Array:
    """Return an array of datatype BYTES, of one axis unless `shape` says otherwise."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape if shape is not None else [len(items)])


def datatype_of(array: Array) -> str:
    """Return the protocol's name of an array's type.

    Raises:
        WireError: it has none.
    """
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise WireError(f"the inference protocol has no datatype for {array.dtype}")
    return name


def encode_tensors(arrays: Mapping[str, Array], binary: Mapping[str, bool]) -> tuple[list[InferTensor], bytes]:
    """Return the tensors' JSON and the bytes to follow it; `binary` says which tensors' data are bytes.

    Raises:
        WireError: an array has no datatype, or holds NaN or infinity that JSON cannot carry.
    """
    tensors, payload = [], []
    for name, array in arrays.items():
        if binary.get(name, False):
            raw = _to_bytes(array)
            tensors.append(_tensor(name, array, parameters={"binary_data_size": len(raw)}))
            payload.append(raw)
        else:
            tensors.append(_json_tensor(name, array))
    return tensors, b"".join(payload)


def decode_tensors(tensors: Sequence[InferTensor], payload: bytes) -> dict[str, Array]:
    """Return arrays by name, NaN and infinities kept for the caller to judge; a null among floats is a NaN.

    Raises:
        WireError: a name comes twice, a datatype is not known, or data do not fit shape and datatype.
    """
    arrays: dict[str, Array] = {}
    offset = 0
    for tensor in tensors:
        if tensor.name in arrays:
            raise WireError(f"tensor {tensor.name[:64]!r} comes twice")
        size = _binary_size(tensor)
        if size is None:
            arrays[tensor.name] = _from_json(tensor)
            continue
        if size > len(payload) - offset:
            raise WireError(f"tensor {tensor.name[:64]!r} has fewer bytes than it says")
        arrays[tensor.name] = _from_bytes(tensor, payload[offset : offset + size])
        offset += size
    if offset != len(payload):
        raise WireError("the body has bytes that belong to no tensor")
    return arrays


def _tensor(name: str, array: Array, **fields: Any) -> InferTensor:
    return InferTensor(name=name, shape=list(array.shape), datatype=datatype_of(array), **fields)


def _to_bytes(array: Array) -> bytes:
    if array.dtype != object:
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    return b"".join(len(item).to_bytes(4, "little") + item for item in array.ravel())


def _json_tensor(name: str, array: Array) -> InferTensor:
    if array.dtype.kind == "O":
        return _json_bytes(name, array)
    if datatype_of(array) == "FP16":
        raise WireError("JSON has no FP16; send it as bytes, or as FP32")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise WireError("JSON has no NaN or infinity")
    return _tensor(name, array, data=array.ravel().tolist())


def _json_bytes(name: str, array: Array) -> InferTensor:
    items: list[bytes] = array.ravel().tolist()
    try:
        return _tensor(name, array, data=[item.decode() for item in items])
    except UnicodeDecodeError:
        data = [base64.b64encode(item).decode("ascii") for item in items]
        return _tensor(name, array, data=data, parameters={"content_type": BASE64})


def _binary_size(tensor: InferTensor) -> int | None:
    size = (tensor.parameters or {}).get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0 or tensor.data is not None:
        raise WireError(f"tensor {tensor.name[:64]!r} has a wrong binary_data_size, or data beside it")
    return size


def _dtype_of(tensor: InferTensor) -> np.dtype[Any]:
    dtype = DATATYPES.get(tensor.datatype)
    if dtype is None:
        raise WireError(f"datatype {tensor.datatype[:16]!r} is not read here; use one of {', '.join(DATATYPES)}")
    return dtype


def _misfit(tensor: InferTensor) -> WireError:
    return WireError(f"the data of tensor {tensor.name[:64]!r} do not fit its shape and datatype")


def _count(tensor: InferTensor) -> int:
    """Return how many elements a shape has; one that no array could have is refused, empty or not."""
    if math.prod(max(1, axis) for axis in tensor.shape) > _MAX_ELEMENTS:
        raise _misfit(tensor)
    return math.prod(tensor.shape)


def _from_bytes(tensor: InferTensor, raw: bytes) -> Array:
    dtype, count = _dtype_of(tensor), _count(tensor)
    if dtype.kind == "O":
        return bytes_array(_elements(tensor, raw, count), tensor.shape)
    if len(raw) != count * dtype.itemsize or (dtype.kind == "b" and raw.strip(b"\x00\x01")):
        raise _misfit(tensor)
    return np.frombuffer(raw, dtype=dtype).reshape(tensor.shape).copy()


def _elements(tensor: InferTensor, raw: bytes, count: int) -> list[bytes]:
    """Return the elements of a BYTES tensor: each its length in 4 little-endian bytes, then itself."""
    items: list[bytes] = []
    offset = 0
    while offset < len(raw) and len(items) < count:
        start = offset + 4
        offset = start + int.from_bytes(raw[offset:start], "little")
        if offset > len(raw):
            raise _misfit(tensor)
        items.append(raw[start:offset])
    if len(items) != count or offset != len(raw):
        raise _misfit(tensor)
    return items


def _from_json(tensor: InferTensor) -> Array:
    dtype = _dtype_of(tensor)
    if tensor.data is None or tensor.datatype == "FP16":
        raise WireError(f"tensor {tensor.name[:64]!r} has no data, or FP16 in JSON")
    flat = _flattened(tensor)
    if len(flat) != _count(tensor) or not {type(item) for item in flat} <= _JSON_KINDS[dtype.kind]:
        raise _misfit(tensor)
    if dtype.kind == "O":
        return bytes_array(_texts(tensor, flat), tensor.shape)
    if dtype.kind in "iu" and flat and not np.iinfo(dtype).min <= min(flat) <= max(flat) <= np.iinfo(dtype).max:
        raise _misfit(tensor)
    try:
        with np.errstate(over="ignore"):  # too large for the datatype is infinite, and for the caller to judge
            return np.array(flat, dtype=np.float64 if dtype.kind == "f" else dtype).astype(dtype).reshape(tensor.shape)
    except OverflowError as error:
        raise _misfit(tensor) from error


def _flattened(tensor: InferTensor) -> list[Any]:
    """Return nested data flat, row by row."""
    flat: list[Any] = tensor.data or []
    for _ in range(MAX_RANK):
        if not flat or not any(isinstance(item, list) for item in flat):
            return flat
        if not all(isinstance(item, list) for item in flat):
            break
        flat = list(chain.from_iterable(flat))
    raise _misfit(tensor)


def _texts(tensor: InferTensor, flat: list[str]) -> list[bytes]:
    if (tensor.parameters or {}).get("content_type") != BASE64:
        return [item.encode("utf-8", "surrogatepass") for item in flat]
    try:
        return [base64.b64decode(item, validate=True) for item in flat]
    except (binascii.Error, ValueError) as error:
        raise _misfit(tensor) from error
