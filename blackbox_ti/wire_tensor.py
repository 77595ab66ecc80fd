"""Arrays on the wire: dtype, shape and base64 of little-endian bytes in C order, and nothing that runs."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from blackbox_ti.errors import WireError
from blackbox_ti.wire_records import NonNegative, Request

__all__ = ["Tensor", "decode_tensor", "encode_tensor"]

Array = NDArray[np.float32]

_DTYPES: Final[dict[str, np.dtype[Any]]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_MAX_RANK: Final = 4


class Tensor(Request):
    """An array on the wire: `data` is base64 of the little-endian bytes in C order."""

    dtype: Literal["float32", "float16"]
    shape: Annotated[list[NonNegative], Field(max_length=_MAX_RANK)]
    data: str


def encode_tensor(array: NDArray[Any], dtype: Literal["float32", "float16"] = "float32") -> Tensor:
    """Return `array` as a wire tensor of `dtype`.

    Raises:
        WireError: the array has more than four axes.
    """
    if array.ndim > _MAX_RANK:
        raise WireError(f"a tensor has at most {_MAX_RANK} axes, not {array.ndim}")
    raw = np.ascontiguousarray(array, dtype=_DTYPES[dtype]).tobytes()
    return Tensor(dtype=dtype, shape=list(array.shape), data=base64.b64encode(raw).decode("ascii"))


def decode_tensor(tensor: Tensor, *, max_bytes: int = 2**28) -> Array:
    """Return a wire tensor as a float32 array of its shape, NaN and infinities kept for the caller to judge.

    Raises:
        WireError: the data is not base64, or its length is not what dtype and shape say, or over `max_bytes`.
    """
    dtype = _DTYPES[tensor.dtype]
    expected = math.prod(tensor.shape) * dtype.itemsize
    # An empty array may still have axes that no array can have.
    largest = math.prod(max(1, axis) for axis in tensor.shape) * dtype.itemsize
    if largest > max_bytes or len(tensor.data) > 4 * (expected // 3 + 2):
        raise WireError(f"tensor of shape {tensor.shape} is longer than its shape or the limit of {max_bytes} bytes")
    try:
        raw = base64.b64decode(tensor.data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError("tensor data is not base64") from error
    if len(raw) != expected:
        raise WireError(f"tensor data has {len(raw)} bytes where shape {tensor.shape} of {tensor.dtype} has {expected}")
    return np.asarray(np.frombuffer(raw, dtype=dtype).reshape(tensor.shape), dtype=np.float32).copy()
