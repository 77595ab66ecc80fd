"""From a request to the tensors of a mapped model, and from its outputs to losses or pictures: pure functions.

B candidates, T vectors, D wide; n samples or items. Without metadata a tensor keeps the datatype it is made with here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.concept import decode_image, encode_png, square
from blackbox_ti.errors import ImageError, InputError, ProtocolError
from blackbox_ti.oip_codec import DATATYPES, bytes_array
from blackbox_ti.oip_mapping import ImagesModel, LossModel, Signature
from blackbox_ti.oip_wire import TensorMetadata
from blackbox_ti.replies import count_candidates
from blackbox_ti.wire import ImagesRequest, LossRequest, decode_tensor

__all__ = ["image_tensors", "loss_tensors", "losses_of", "pictures_of", "ranking_of"]

Array = NDArray[Any]

_FLOATS: Final = "f"


def loss_tensors(
    request: LossRequest, pictures: Sequence[bytes], model: LossModel, signature: Signature, resolution: int
) -> dict[str, Array]:
    """Return the inputs by name; `pictures` are the concept's, PNG files.

    Raises:
        InputError: a value does not fit the shape or datatype that the model declares.
    """
    inputs, samples = model.inputs, request.samples
    candidates, n = count_candidates(request), len(samples)
    rows = model.layout == "rows"
    image = np.array([s.image for s in samples], np.int64)
    prompt = np.array([s.prompt for s in samples], np.int64)
    made: dict[str, Array] = {
        inputs.t: np.array([s.t for s in samples], np.float64),
        inputs.seed: np.array([s.seed for s in samples], np.int64),
        inputs.prompts: _listed(_texts(request.prompts), prompt, indexed=inputs.prompt is not None),
    }
    _put(made, inputs.image, image)
    _put(made, inputs.prompt, prompt)
    if inputs.pictures is not None:
        shown = _pictures(pictures, signature.get(inputs.pictures), resolution)
        made[inputs.pictures] = _listed(shown, image, indexed=inputs.image is not None)
    if rows:
        made = {name: np.concatenate([array] * candidates) for name, array in made.items()}
    _put(made, inputs.placeholder_token, _scalar(request.placeholder_token.encode(), candidates * n, rows=rows))
    for name, tensor in request.embeddings.items():
        array = decode_tensor(tensor)
        made[inputs.embeddings[name]] = np.repeat(array, n, axis=0) if rows else array
    return {name: _fitted(name, array, signature.get(name)) for name, array in made.items()}


def image_tensors(
    request: ImagesRequest, model: ImagesModel, signature: Signature, resolution: int
) -> dict[str, Array]:
    """Return the inputs by name; a null height or width is `resolution`.

    Raises:
        InputError: a value does not fit what the model declares, or the host's own steps or guidance are others.
    """
    inputs, items = model.inputs, request.items
    _check_own(model, request)
    candidate = np.array([i.candidate for i in items], np.int64)
    prompt = np.array([i.prompt for i in items], np.int64)
    made: dict[str, Array] = {
        inputs.seed: np.array([i.seed for i in items], np.int64),
        inputs.prompts: _listed(_texts(request.prompts), prompt, indexed=inputs.prompt is not None),
    }
    _put(made, inputs.candidate, candidate)
    _put(made, inputs.prompt, prompt)
    for name, tensor in request.embeddings.items():
        array = decode_tensor(tensor)
        made[inputs.embeddings[name]] = _listed(array, candidate, indexed=inputs.candidate is not None)
    for named, value in (
        (inputs.placeholder_token, request.placeholder_token.encode()),
        (inputs.negative_prompt, request.negative_prompt.encode()),
        (inputs.num_inference_steps, request.num_inference_steps),
        (inputs.guidance_scale, request.guidance_scale),
        (inputs.height, request.height or resolution),
        (inputs.width, request.width or resolution),
    ):
        _put(made, named, _scalar(value, len(items), rows=model.layout == "rows"))
    return {name: _fitted(name, array, signature.get(name)) for name, array in made.items()}


def losses_of(outputs: Mapping[str, Array], model: LossModel, candidates: int, samples: int) -> tuple[list[int], Array]:
    """Return the candidates answered, in order, and their losses (len, n) float32, NaN where one failed.

    Raises:
        ProtocolError: an output is missing, or of another shape or datatype.
    """
    losses = _output(outputs, model.outputs.losses or "")
    answered = _answered(outputs, model, candidates)
    if losses.dtype.kind != _FLOATS or losses.size != len(answered) * samples:
        raise ProtocolError(f"the host's losses have shape {losses.shape} where {len(answered)} x {samples} was asked")
    return answered, losses.reshape(len(answered), samples).astype(np.float32)


def ranking_of(outputs: Mapping[str, Array], model: LossModel, candidates: int) -> tuple[list[int], list[int]]:
    """Return the candidates answered, in order, and the same from the best to the worst.

    Raises:
        ProtocolError: an output is missing, or not whole numbers.
    """
    ranking = _output(outputs, model.outputs.ranking or "")
    if ranking.dtype.kind not in "iu" or ranking.size > candidates:
        raise ProtocolError("the host's ranking is not one of the candidates asked")
    return _answered(outputs, model, candidates), [int(c) for c in ranking.ravel()]


def _answered(outputs: Mapping[str, Array], model: LossModel, candidates: int) -> list[int]:
    """Return the candidates that an output is for: all, unless the host lists them."""
    if model.outputs.candidates is None or model.outputs.candidates not in outputs:
        return list(range(candidates))
    told = _output(outputs, model.outputs.candidates)
    if told.dtype.kind not in "iu" or told.size > candidates:
        raise ProtocolError("the host does not say which candidates its answer is for")
    answered = [int(c) for c in told.ravel()]
    if sorted(set(answered) & set(range(candidates))) != answered:
        raise ProtocolError("the host's answer is not for the candidates asked, each once and in order")
    return answered


def pictures_of(outputs: Mapping[str, Array], model: ImagesModel, items: int, max_pixels: int) -> list[bytes | None]:
    """Return one PNG an item, None where the host sent none (an element of no bytes).

    Raises:
        ProtocolError: the output is missing, of another count or datatype, or a picture cannot be read.
    """
    images = _output(outputs, model.outputs.images)
    if images.ndim == 0 or len(images) != items:
        raise ProtocolError(f"the host's pictures have shape {images.shape} where {items} were asked")
    if images.dtype.kind == "O":
        if images.size != items:
            raise ProtocolError("the host sent more than one file a picture")
        return [_png(file, max_pixels) for file in images.ravel()]
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype.kind not in "uf" or images[0, ..., 0].size > max_pixels:
        raise ProtocolError(f"the host's pictures have shape {images.shape}; expected (items, height, width, 3)")
    return [encode_png(Image.fromarray(picture)) for picture in _as_bytes(images)]


def _put(made: dict[str, Array], name: str | None, array: Array) -> None:
    if name is not None:
        made[name] = array


def _texts(texts: Sequence[str]) -> Array:
    return bytes_array([text.encode() for text in texts])


def _listed(values: Array, index: Array, *, indexed: bool) -> Array:
    """Return the values as they are where their index is sent too, else one for each place of the index."""
    if not indexed and index.size and index.max() >= len(values):
        raise InputError(f"a sample or item names number {int(index.max())} of {len(values)}")
    return values if indexed else values[index]


def _scalar(value: bytes | float, count: int, *, rows: bool) -> Array:
    repeat = count if rows else 1
    return bytes_array([value] * repeat) if isinstance(value, bytes) else np.full(repeat, value)


def _check_own(model: ImagesModel, request: ImagesRequest) -> None:
    """Refuse steps or guidance other than those the host always uses: their cost would be another."""
    for name in ("num_inference_steps", "guidance_scale"):
        own, asked = getattr(model, name), getattr(request, name)
        if own is not None and own != asked:
            raise InputError(f"this host always makes pictures with {name} {own:g}, not {asked:g}; ask for that")


def _pictures(pngs: Sequence[bytes], declared: TensorMetadata | None, resolution: int) -> Array:
    """Return pictures as files, or as pixels (k, H, W, 3) where the model declares UINT8."""
    if declared is None or declared.datatype == "BYTES":
        return bytes_array(pngs)
    if declared.datatype != "UINT8":
        raise InputError(
            f"input {declared.name!r} takes pictures as {declared.datatype}; only BYTES and UINT8 are sent"
        )
    return np.stack([np.asarray(square(decode_image(png, "a picture"), resolution)) for png in pngs])


def _fitted(name: str, array: Array, declared: TensorMetadata | None) -> Array:
    """Return the array as the model declares it: cast where no value changes its meaning, with axes of length 1."""
    if declared is None:
        return array
    array = _cast(name, array, declared.datatype)
    shape = list(array.shape)
    while len(shape) < len(declared.shape):
        shape.append(1)
    if len(shape) > len(declared.shape) and len(shape) > 1 and shape[1] == 1:
        del shape[1]
    fits = len(shape) == len(declared.shape) and all(d in {-1, s} for s, d in zip(shape, declared.shape, strict=True))
    if not fits:
        raise InputError(f"input {name!r} takes the shape {declared.shape}; what is to be sent has {list(array.shape)}")
    return array.reshape(shape)


def _cast(name: str, array: Array, datatype: str) -> Array:
    dtype = DATATYPES.get(datatype)
    if dtype is None or (dtype.kind == "O") != (array.dtype.kind == "O") or dtype.kind == "b":
        raise InputError(f"input {name!r} has the datatype {datatype}, which cannot hold what is mapped to it")
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if not (array == np.round(array)).all() or array.min() < limits.min or array.max() > limits.max:
            raise InputError(f"input {name!r} has the datatype {datatype}; {array.max()} does not fit into it")
    return array.astype(dtype)


def _output(outputs: Mapping[str, Array], name: str) -> Array:
    if name not in outputs:
        raise ProtocolError(f"the host's reply lacks the output {name!r}")
    return outputs[name]


def _png(file: bytes, max_pixels: int) -> bytes | None:
    if not file:
        return None
    try:
        return encode_png(decode_image(file, "the host's picture", max_pixels=max_pixels))
    except ImageError as error:
        raise ProtocolError(str(error)) from error


def _as_bytes(images: Array) -> Iterator[NDArray[np.uint8]]:
    if images.dtype.kind == _FLOATS:
        if not np.isfinite(images).all():
            raise ProtocolError("the host sent a picture that is not finite")
        images = np.round(np.clip(images.astype(np.float64), 0, 1) * 255)
    elif images.max(initial=0) > 255:
        raise ProtocolError("the host sent a picture with values over 255")
    yield from images.astype(np.uint8)
