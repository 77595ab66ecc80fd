"""A host that draws: a flat picture whose colour is the embedding's, and a scorer that knows the colour wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.callable_endpoint import CallableEndpoint
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.wire import ImagesRequest, Limits

__all__ = ["DIM", "WANTED", "WORDS", "colour", "likeness", "painter", "references"]

DIM = 6
WORDS = ("cat", "dog", "red", "blue", "circle", "square", "star", "toy", "photo", "sketch")
WANTED = (200, 60, 120)
_TABLE = np.random.default_rng(3).normal(0, 0.3, (len(WORDS), DIM)).astype(np.float32)


def colour(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the colour (3,) that an embedding (T, D) stands for, 0 to 255."""
    mean: NDArray[np.float64] = vectors.mean(axis=0, dtype=np.float64)
    return np.asarray(127.5 * (1 + np.tanh(mean[:3] + 0.5 * mean[3:])))


def draw(embeddings: Mapping[str, NDArray[np.float32]], request: ImagesRequest) -> list[Image.Image | None]:
    """Draw flat pictures, their shade moved by the seed; none of a candidate that is longer than 50."""
    pictures: list[Image.Image | None] = []
    for item in request.items:
        vectors = embeddings["text"][item.candidate]
        shade = np.random.default_rng(item.seed).normal(0, 12)
        flat = tuple(int(c) for c in np.clip(colour(vectors) + shade, 0, 255))
        size = (request.width or 8, request.height or 8)
        pictures.append(None if np.linalg.norm(vectors) > 50 else Image.new("RGB", size, flat))
    return pictures


def painter(*, vocabulary: bool = True, limits: Limits | None = None) -> CallableEndpoint:
    """Return the host."""
    encoders = {"text": Vocabulary(list(WORDS), _TABLE) if vocabulary else DIM}
    return CallableEndpoint(encoders=encoders, images=draw, resolution=8, limits=limits)


def references() -> list[Image.Image]:
    """Return two pictures of the colour wanted."""
    return [Image.new("RGB", (8, 8), WANTED) for _ in range(2)]


def likeness(pictures: Sequence[Image.Image]) -> list[float]:
    """Score pictures: the nearer to the colour wanted, the larger, 0 at most."""
    means = [np.asarray(picture, dtype=float).mean(axis=(0, 1)) for picture in pictures]
    return [-float(np.abs(mean - WANTED).mean()) / 255 for mean in means]
