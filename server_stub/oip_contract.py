"""The two models of the Open Inference Protocol that this project serves: their tensors, to and from its own records.

`loss` scores candidates and `images` makes pictures. B candidates, T vectors, D wide; n samples or items; P prompts.
Every input has to be there unless it says *optional*; an input that is not listed is refused.

    both      embeddings_{encoder} FP32 (B, T, D), prompts BYTES (P), prompt INT64 (n): which of the prompts,
              placeholder_token BYTES (1), seed INT64 (n)
    loss      image INT64 (n), t FP64 (n), and either pictures BYTES (files) or UINT8 (k, H, W, 3), or concept
              BYTES (1), the id of pictures registered before
              -> losses FP32 (A, n), or ranking INT64 (A) where the host tells ranks alone; candidates INT64 (A)
    images    candidate INT64 (n); optional: num_inference_steps INT64 (1), guidance_scale FP64 (1), negative_prompt
              BYTES (1), height INT64 (1), width INT64 (1)
              -> images BYTES (n): PNG files, of no bytes where the candidate was rejected
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.errors import ImageError
from blackbox_ti.oip_card import CARD_PARAMETER, ModelKind
from blackbox_ti.oip_codec import bytes_array
from blackbox_ti.oip_wire import ModelMetadata, TensorMetadata
from blackbox_ti.wire import (
    ImagesReply,
    ImagesRequest,
    LossReply,
    LossRequest,
    ModelCard,
    ProblemCode,
    decode_tensor,
    encode_tensor,
)
from server_stub.concepts import decode_picture, prepare_picture
from server_stub.problems import ProblemError, validated

__all__ = [
    "MODEL_VERSION",
    "OPTIONAL_INPUTS",
    "concept_of",
    "images_outputs",
    "images_request",
    "loss_outputs",
    "loss_request",
    "model_metadata",
    "pictures",
]

Array = NDArray[Any]
Arrays = Mapping[str, Array]

MODEL_VERSION: Final = "1"

_BOTH: Final = (
    ("prompts", "BYTES", 1),
    ("prompt", "INT64", 1),
    ("placeholder_token", "BYTES", 0),
    ("seed", "INT64", 1),
)
_LOSS: Final = (("image", "INT64", 1), ("t", "FP64", 1), ("pictures", "BYTES", 1), ("concept", "BYTES", 0))
_OPTIONAL: Final = (
    ("num_inference_steps", "INT64", 0),
    ("guidance_scale", "FP64", 0),
    ("negative_prompt", "BYTES", 0),
    ("height", "INT64", 0),
    ("width", "INT64", 0),
)
OPTIONAL_INPUTS: Final = frozenset(name for name, *_ in _OPTIONAL)
_IMAGES: Final = (("candidate", "INT64", 1), *_OPTIONAL)
_PREFIX: Final = "embeddings_"


def model_metadata(kind: ModelKind, card: ModelCard) -> ModelMetadata:
    """Return a model's metadata, the model card among its parameters."""
    embeddings = [_tensor(_PREFIX + encoder.name, "FP32", [-1, -1, encoder.dim]) for encoder in card.encoders]
    return ModelMetadata(
        name=kind.value,
        versions=[MODEL_VERSION],
        platform="blackbox-ti",
        inputs=embeddings + [_declared(*row) for row in (*_BOTH, *(_LOSS if kind is ModelKind.LOSS else _IMAGES))],
        outputs=_outputs(kind, card),
        parameters={CARD_PARAMETER: card.model_dump_json()},
    )


def loss_request(arrays: Arrays, concept: str) -> LossRequest:
    """Return the request in a loss model's inputs, about the pictures registered as `concept`.

    Raises:
        ProblemError: an input is missing, not known, or not what the model takes.
    """
    _check_names(arrays, {name for name, *_ in (*_BOTH, *_LOSS)})
    columns = {name: _numbers(arrays, name, "f" if name == "t" else "iu") for name in ("image", "prompt", "t", "seed")}
    return validated(LossRequest, {"concept": concept, **_shared(arrays), "samples": _rows(columns)})


def images_request(arrays: Arrays) -> ImagesRequest:
    """Return the request in an images model's inputs.

    Raises:
        ProblemError: an input is missing, not known, or not what the model takes.
    """
    _check_names(arrays, {name for name, *_ in (*_BOTH, *_IMAGES)})
    columns = {name: _numbers(arrays, name, "iu") for name in ("candidate", "prompt", "seed")}
    given = {name: _single(arrays, name, datatype) for name, datatype, _ in _OPTIONAL if name in arrays}
    return validated(ImagesRequest, {**_shared(arrays), "items": _rows(columns), **given})


def pictures(arrays: Arrays, card: ModelCard) -> list[Image.Image] | None:
    """Return the RGB pictures of a loss model's inputs, of the model's resolution, or None where they name a concept.

    Raises:
        ProblemError: there are both or neither, too many, or one cannot be read.
    """
    if ("pictures" in arrays) == ("concept" in arrays):
        raise ProblemError(ProblemCode.INVALID_REQUEST, "send either the input pictures or the input concept")
    if "concept" in arrays:
        return None
    found, limits = arrays["pictures"], card.limits
    if found.ndim == 0 or not 1 <= len(found) <= limits.max_concept_images:
        detail = f"pictures are 1 to {limits.max_concept_images} in one request"
        raise ProblemError(ProblemCode.LIMIT_EXCEEDED, detail)
    try:
        return [_picture(item, card) for item in found]
    except ImageError as error:
        raise ProblemError(ProblemCode.INVALID_IMAGE, str(error)) from error


def concept_of(arrays: Arrays) -> str:
    """Return the concept's id that a loss model's inputs name.

    Raises:
        ProblemError: it is no text.
    """
    return str(_single(arrays, "concept", "BYTES"))


def loss_outputs(reply: LossReply) -> dict[str, Array]:
    """Return a loss model's outputs."""
    candidates = np.array(reply.candidates, np.int64)
    if reply.losses is None:
        return {"ranking": np.array(reply.ranking or [], np.int64), "candidates": candidates}
    return {"losses": decode_tensor(reply.losses), "candidates": candidates}


def images_outputs(reply: ImagesReply) -> dict[str, Array]:
    """Return an images model's outputs."""
    return {"images": bytes_array([base64.b64decode(file or "") for file in reply.images])}


def _tensor(name: str, datatype: str, shape: list[int]) -> TensorMetadata:
    return TensorMetadata(name=name, datatype=datatype, shape=shape)


def _declared(name: str, datatype: str, rank: int) -> TensorMetadata:
    return _tensor(name, datatype, [-1] if rank else [1])


def _outputs(kind: ModelKind, card: ModelCard) -> list[TensorMetadata]:
    if kind is ModelKind.IMAGES:
        return [_tensor("images", "BYTES", [-1])]
    ranked = card.reply_mode == "rank"
    answer = _tensor("ranking", "INT64", [-1]) if ranked else _tensor("losses", "FP32", [-1, -1])
    return [answer, _tensor("candidates", "INT64", [-1])]


def _shared(arrays: Arrays) -> dict[str, Any]:
    embeddings = {}
    for name in arrays:
        if name.startswith(_PREFIX):
            if arrays[name].dtype.kind != "f" or arrays[name].ndim != 3:
                raise ProblemError(ProblemCode.INVALID_TENSOR, "embeddings are floats of (candidates, vectors, width)")
            embeddings[name.removeprefix(_PREFIX)] = encode_tensor(arrays[name].astype(np.float32))
    return {
        "embeddings": embeddings,
        "prompts": _texts(arrays, "prompts"),
        "placeholder_token": _single(arrays, "placeholder_token", "BYTES"),
    }


def _check_names(arrays: Arrays, known: set[str]) -> None:
    others = [name for name in arrays if name not in known and not name.startswith(_PREFIX)]
    if others:
        raise ProblemError(ProblemCode.INVALID_REQUEST, f"the model has no input {others[0][:64]!r}")


def _column(arrays: Arrays, name: str, kinds: str) -> Array:
    """Return an input of one axis, or of more that have the length 1."""
    found = arrays.get(name)
    if found is None:
        raise ProblemError(ProblemCode.INVALID_REQUEST, f"the input {name} is missing")
    if found.dtype.kind not in kinds or found.ndim == 0 or found.size != len(found):
        raise ProblemError(ProblemCode.INVALID_TENSOR, f"the input {name} has another datatype or shape")
    return found.ravel()


def _numbers(arrays: Arrays, name: str, kinds: str) -> list[Any]:
    numbers: list[Any] = _column(arrays, name, kinds).tolist()
    return numbers


def _texts(arrays: Arrays, name: str) -> list[str]:
    try:
        return [item.decode() for item in _column(arrays, name, "O")]
    except UnicodeDecodeError as error:
        raise ProblemError(ProblemCode.INVALID_TENSOR, f"the input {name} is not UTF-8") from error


def _single(arrays: Arrays, name: str, datatype: str) -> Any:
    values = (
        _texts(arrays, name) if datatype == "BYTES" else _numbers(arrays, name, "f" if datatype == "FP64" else "iu")
    )
    if len(values) != 1:
        raise ProblemError(ProblemCode.INVALID_TENSOR, f"the input {name} holds one element")
    return values[0]


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    if len({len(column) for column in columns.values()}) != 1:
        raise ProblemError(ProblemCode.INVALID_TENSOR, f"the inputs {', '.join(columns)} have the same length")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _picture(item: Any, card: ModelCard) -> Image.Image:
    """Return one picture of a file's bytes, or of pixels (H, W, 3) UINT8."""
    limits = card.limits
    if isinstance(item, bytes):
        return decode_picture(
            item, resolution=card.resolution, max_bytes=limits.max_image_bytes, max_pixels=limits.max_image_pixels
        )
    pixels = np.asarray(item)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ProblemError(ProblemCode.INVALID_TENSOR, "pictures are BYTES (k), or UINT8 (k, height, width, 3)")
    if pixels.shape[0] * pixels.shape[1] > limits.max_image_pixels:
        raise ImageError(f"a picture has at most {limits.max_image_pixels} pixels")
    return prepare_picture(Image.fromarray(pixels), card.resolution)
