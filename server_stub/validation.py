"""What a request asks, checked against the model and the host's limits before it may queue for the device.

A mistake in the request is a problem and refuses it whole; a candidate that is not finite or too long is a rejection,
and its neighbours are served.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.errors import WireError
from blackbox_ti.wire import (
    Encoder,
    ImageItem,
    ImagesRequest,
    Limits,
    LossRequest,
    ModelCard,
    ProblemCode,
    Rejection,
    Tensor,
    decode_tensor,
    images_cost,
    loss_cost,
)
from server_stub.engine import Engine, ImageJob, LossJob
from server_stub.problems import ProblemError

__all__ = ["ImagePlan", "LossPlan", "check_images", "check_loss"]

Array = NDArray[np.float32]

_PLACEHOLDER: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,64}")


@dataclass(frozen=True)
class LossPlan:
    """A loss request that may run: `accepted` are the candidates in `job`, in order."""

    job: LossJob
    accepted: Sequence[int]
    rejected: Sequence[Rejection]
    forwards: int
    queries: int


@dataclass(frozen=True)
class ImagePlan:
    """An images request that may run: `wanted` are the positions in the reply of the items in `job`."""

    job: ImageJob
    wanted: Sequence[int]
    total: int
    rejected: Sequence[Rejection]
    forwards: int
    queries: int


def check_loss(request: LossRequest, card: ModelCard, engine: Engine, *, latents: Any, concept_images: int) -> LossPlan:
    """Return what to compute for a loss request on a concept of `concept_images` pictures.

    Raises:
        ProblemError: the request is over a limit, or does not fit the model or the concept.
    """
    limits = card.limits
    _within("samples", len(request.samples), limits.max_samples)
    _within("prompts", len(request.prompts), limits.max_prompts)
    embeddings = _embeddings(request.embeddings, card)
    candidates, vectors = _extent(embeddings)
    _check_prompts(request.prompts, request.placeholder_token, vectors, limits, engine)
    if any(sample.image >= concept_images for sample in request.samples):
        raise ProblemError(ProblemCode.INVALID_REQUEST, f"a sample names an image; the concept has {concept_images}")
    _within("forwards", loss_cost(candidates, len(request.samples))[0], limits.max_forwards)
    rejected = _rejections(embeddings, limits.max_norm)
    accepted = _others(candidates, rejected)
    forwards, queries = loss_cost(len(accepted), len(request.samples))
    job = LossJob(
        latents=latents,
        placeholder_token=request.placeholder_token,
        embeddings={name: array[accepted] for name, array in embeddings.items()},
        prompts=request.prompts,
        samples=request.samples,
    )
    return LossPlan(job, accepted, rejected, forwards, queries)


def check_images(request: ImagesRequest, card: ModelCard, engine: Engine, *, max_side: int) -> ImagePlan:
    """Return what to compute for an images request; pictures have at most `max_side` pixels a side.

    Raises:
        ProblemError: the request is over a limit, or does not fit the model.
    """
    limits = card.limits
    _within("items", len(request.items), limits.max_images)
    _within("prompts", len(request.prompts), limits.max_prompts)
    _within("steps", request.num_inference_steps, limits.max_steps)
    embeddings = _embeddings(request.embeddings, card)
    candidates, vectors = _extent(embeddings)
    prompts = [*request.prompts, request.negative_prompt]
    _check_prompts(prompts, request.placeholder_token, vectors, limits, engine)
    if any(item.candidate >= candidates for item in request.items):
        raise ProblemError(ProblemCode.INVALID_REQUEST, f"an item names a candidate; the request has {candidates}")
    cost = images_cost(len(request.items), request.num_inference_steps, request.guidance_scale)
    _within("forwards", cost[0], limits.max_forwards)
    rejected = _rejections(embeddings, limits.max_norm)
    accepted = _others(candidates, rejected)
    wanted = [index for index, item in enumerate(request.items) if item.candidate in accepted]
    place = {candidate: row for row, candidate in enumerate(accepted)}
    items = [_moved(request.items[index], place) for index in wanted]
    forwards, queries = images_cost(len(items), request.num_inference_steps, request.guidance_scale)
    job = ImageJob(
        placeholder_token=request.placeholder_token,
        embeddings={name: array[accepted] for name, array in embeddings.items()},
        prompts=request.prompts,
        items=items,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        negative_prompt=request.negative_prompt,
        height=_side("height", request.height, card.resolution, max_side),
        width=_side("width", request.width, card.resolution, max_side),
    )
    return ImagePlan(job, wanted, len(request.items), rejected, forwards, queries)


def _embeddings(tensors: Mapping[str, Tensor], card: ModelCard) -> dict[str, Array]:
    """Return the embeddings (B, T, D) of exactly the model's encoders, with the same B and T in all."""
    names = [encoder.name for encoder in card.encoders]
    if set(tensors) != set(names):
        raise ProblemError(ProblemCode.INVALID_TENSOR, f"embeddings are for exactly the encoders {', '.join(names)}")
    extents = {tuple(tensors[name].shape[:2]) for name in names}
    if len(extents) != 1:
        raise ProblemError(ProblemCode.INVALID_TENSOR, "all encoders have the same candidates and vectors (B, T)")
    return {encoder.name: _embedding(tensors[encoder.name], encoder, card.limits) for encoder in card.encoders}


def _embedding(tensor: Tensor, encoder: Encoder, limits: Limits) -> Array:
    if len(tensor.shape) != 3 or tensor.shape[2] != encoder.dim or 0 in tensor.shape:
        detail = f"embeddings of {encoder.name} have the shape (candidates, vectors, {encoder.dim})"
        raise ProblemError(ProblemCode.INVALID_TENSOR, detail)
    _within("candidates", tensor.shape[0], limits.max_candidates)
    _within("vectors", tensor.shape[1], limits.max_vectors)
    try:
        return decode_tensor(tensor, max_bytes=limits.max_body_bytes)
    except WireError as error:
        raise ProblemError(ProblemCode.INVALID_TENSOR, str(error)) from error


def _extent(embeddings: Mapping[str, Array]) -> tuple[int, int]:
    candidates, vectors, _ = next(iter(embeddings.values())).shape
    return candidates, vectors


def _check_prompts(prompts: Sequence[str], placeholder: str, vectors: int, limits: Limits, engine: Engine) -> None:
    """Refuse prompts that are too long, and a placeholder that is a token or cannot be one."""
    if not _PLACEHOLDER.fullmatch(placeholder):
        detail = "the placeholder is 1 to 64 characters without spaces or control characters"
        raise ProblemError(ProblemCode.INVALID_REQUEST, detail)
    if engine.is_token(placeholder):
        raise ProblemError(ProblemCode.PLACEHOLDER_TAKEN, "the placeholder already is a token; choose another")
    longest = max(engine.prompt_tokens(prompt, placeholder, vectors) for prompt in set(prompts))
    _within("prompt tokens", longest, limits.max_prompt_tokens)


def _within(what: str, count: int, most: int) -> None:
    if count > most:
        raise ProblemError(ProblemCode.LIMIT_EXCEEDED, f"{count} {what}; at most {most} in one request")


def _side(name: str, asked: int | None, resolution: int, most: int) -> int:
    side = resolution if asked is None else asked
    if side % 8:
        raise ProblemError(ProblemCode.INVALID_REQUEST, f"{name} is a multiple of 8 pixels")
    _within(f"pixels of {name}", side, most)
    return side


def _rejections(embeddings: Mapping[str, Array], max_norm: float) -> list[Rejection]:
    """Return the candidates that hold NaN or infinity, or a vector longer than `max_norm`."""
    candidates, _ = _extent(embeddings)
    finite = np.ones(candidates, dtype=bool)
    longest = np.zeros(candidates)
    for array in embeddings.values():
        finite &= np.isfinite(array).all(axis=(1, 2))
        norms = np.linalg.norm(np.nan_to_num(array.astype(np.float64), posinf=0.0, neginf=0.0), axis=2)
        longest = np.maximum(longest, norms.max(axis=1))
    rejected = []
    for index in range(candidates):
        if not finite[index]:
            rejected.append(Rejection(candidate=index, code="not_finite", detail="an embedding is not finite"))
        elif longest[index] > max_norm:
            detail = f"an embedding's norm is over {max_norm:.6g}"
            rejected.append(Rejection(candidate=index, code="norm_exceeded", detail=detail))
    return rejected


def _others(candidates: int, rejected: Sequence[Rejection]) -> list[int]:
    bad = {rejection.candidate for rejection in rejected}
    return [index for index in range(candidates) if index not in bad]


def _moved(item: ImageItem, place: Mapping[int, int]) -> ImageItem:
    return item.model_copy(update={"candidate": place[item.candidate]})
