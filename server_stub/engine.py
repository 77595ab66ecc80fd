"""What the routes need of a model: the `Engine` protocol; its diffusers form is `server_stub.diffusers_engine`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.wire import Encoder, ImageItem, Sample

__all__ = ["Engine", "EngineInfo", "ImageJob", "LossJob", "Slice", "SteppedEngine"]

Array = NDArray[np.float32]
Embeddings = Mapping[str, Array]


@dataclass(frozen=True)
class EngineInfo:
    """The model's share of the model card."""

    model: str
    family: str
    fingerprint: str
    encoders: Sequence[Encoder]
    resolution: int
    prediction_type: str
    max_prompt_tokens: int


@dataclass(frozen=True)
class LossJob:
    """Candidates to score, validated: `embeddings` (B, T, D) by encoder, all finite and within bounds.

    `latents` is what `encode_images` returned for the concept.
    """

    latents: Any
    placeholder_token: str
    embeddings: Embeddings
    prompts: Sequence[str]
    samples: Sequence[Sample]


@dataclass(frozen=True)
class ImageJob:
    """Pictures to make, validated."""

    placeholder_token: str
    embeddings: Embeddings
    prompts: Sequence[str]
    items: Sequence[ImageItem]
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str
    height: int
    width: int


class Engine(Protocol):
    """A model. Methods run on the one lane to the device, never at the same time, except where they say so."""

    @property
    def info(self) -> EngineInfo:
        """The model's share of the model card."""
        ...

    def is_token(self, word: str) -> bool:
        """Return whether `word` already is a token of any encoder (safe from any thread)."""
        ...

    def prompt_tokens(self, prompt: str, placeholder_token: str, vectors: int) -> int:
        """Return how many tokens `prompt` takes with the placeholder as `vectors` tokens (safe from any thread)."""
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> Any:
        """Return the latents of RGB pictures, cropped to a square and resized to the model's resolution."""
        ...

    def losses(self, job: LossJob) -> Array:
        """Return per-sample losses (B, n) float32; a candidate's losses do not depend on what shares its batch."""
        ...

    def images(self, job: ImageJob) -> list[Image.Image]:
        """Return one RGB picture an item."""
        ...

    def vocabulary(self, encoder: str) -> tuple[Sequence[str], Array]:
        """Return tokens (V) and their embeddings (V, D) (safe from any thread)."""
        ...

    def warm_up(self) -> None:
        """Run every code path once, so that the first request is not the slowest."""
        ...


@dataclass(frozen=True)
class Slice:
    """Rows `start` to `stop` of what `SteppedEngine.prepare` returned."""

    work: Any
    start: int
    stop: int


@runtime_checkable
class SteppedEngine(Engine, Protocol):
    """An engine whose work comes in steps, so that the lane can share it out and fill a step from several requests.

    `micro_batch` is the number of denoiser rows of one step. A loss job has B * n rows.
    """

    micro_batch: int

    def prepare(self, job: LossJob) -> Any:
        """Return the job's work, none of its rows scored."""
        ...

    def score(self, slices: Sequence[Slice]) -> None:
        """Score at most `micro_batch` rows, of one piece of work or several."""
        ...

    def result(self, work: Any) -> Array:
        """Return per-sample losses (B, n) float32 of work whose rows are all scored."""
        ...

    def pictures(self, job: ImageJob) -> Iterator[Image.Image]:
        """Return an iterator that makes one picture a step, the pictures of `images`."""
        ...
