"""A deterministic engine without a model, for tests of the routes and books."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.wire import Encoder
from server_stub.engine import EngineInfo, ImageJob, LossJob

__all__ = ["DIM", "TOKENS", "Array", "FakeEngine"]

Array = NDArray[np.float32]

DIM = 8
TOKENS = ("a", "photo", "of", "cat", "dog")


class FakeEngine:
    """Loss is the squared distance to a target drawn from the pictures, plus noise of the sample's seed.

    `gate` cleared holds the device thread until it is set; `entered` is set when work begins. A candidate whose first
    component is exactly 2.5 gets a NaN loss; `error` is raised instead of an answer. Work takes `seconds`.
    """

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.error: Exception | None = None
        self.calls = 0
        rng = np.random.default_rng(7)
        self._table = rng.normal(size=(len(TOKENS), DIM)).astype(np.float32)

    @property
    def info(self) -> EngineInfo:
        """Return a made-up model."""
        norms = np.linalg.norm(self._table, axis=1)
        encoder = Encoder(name="text", dim=DIM, norm_mean=float(norms.mean()), norm_std=float(norms.std()))
        return EngineInfo("fake", "fake", "ab" * 32, [encoder], 16, "epsilon", 20)

    def is_token(self, word: str) -> bool:
        """Return whether the word is in the small vocabulary."""
        return word in TOKENS

    def prompt_tokens(self, prompt: str, placeholder_token: str, vectors: int) -> int:
        """Return words, each placeholder counted as its vectors, plus start and end."""
        words = prompt.split()
        return sum(vectors if word == placeholder_token else 1 for word in words) + 2

    def encode_images(self, images: Sequence[Image.Image]) -> Any:
        """Return the mean colour of each picture, repeated to the width (n, DIM)."""
        self._enter()
        means = [np.asarray(image.convert("RGB"), np.float32).mean() / 255 for image in images]
        return np.repeat(np.asarray(means, np.float32)[:, None], DIM, axis=1)

    def losses(self, job: LossJob) -> Array:
        """Return losses (B, n)."""
        self._enter()
        vectors = job.embeddings["text"].mean(axis=1)
        columns = []
        for sample in job.samples:
            noise = np.random.default_rng(sample.seed).normal()
            distance = ((vectors - job.latents[sample.image]) ** 2).mean(axis=1)
            columns.append(distance + sample.t * abs(noise) + len(job.prompts[sample.prompt]) / 1000)
        losses = np.stack(columns, axis=1).astype(np.float32)
        losses[vectors[:, 0] == 2.5] = np.nan
        return losses

    def images(self, job: ImageJob) -> list[Image.Image]:
        """Return a flat picture an item, coloured by candidate and seed."""
        self._enter()
        return [
            Image.new("RGB", (job.width, job.height), (item.candidate % 256, item.seed % 256, 7)) for item in job.items
        ]

    def vocabulary(self, encoder: str) -> tuple[Sequence[str], Array]:
        """Return the small vocabulary."""
        assert encoder == "text"
        return TOKENS, self._table

    def warm_up(self) -> None:
        """Do nothing."""
        self._enter()
        self.calls = 0

    def _enter(self) -> None:
        self.calls += 1
        self.entered.set()
        time.sleep(self.seconds)
        assert self.gate.wait(30), "the gate of the fake engine was never opened"
        if self.error is not None:
            raise self.error
