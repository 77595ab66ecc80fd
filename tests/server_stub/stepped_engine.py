"""An engine that does its work in steps, for tests of what shares them out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.wire import Encoder, ImageItem, Sample
from server_stub.engine import EngineInfo, ImageJob, LossJob, Slice

__all__ = ["MICRO_BATCH", "SteppedFakeEngine", "Work", "image_job", "loss_job"]

MICRO_BATCH = 4


class Work:
    """A job with the losses scored so far; NaN where none is yet."""

    def __init__(self, job: LossJob) -> None:
        self.base = next(iter(job.embeddings.values()))[:, 0, 0]
        self.samples = len(job.samples)
        self.losses = np.full(len(self.base) * self.samples, np.nan, np.float32)


class SteppedFakeEngine:
    """An engine whose loss of row i of candidate b is b's first number plus i; it keeps the steps it was asked for."""

    info = EngineInfo("m", "f", "0" * 64, [Encoder(name="e", dim=1, norm_mean=1, norm_std=0)], 8, "epsilon", 16)
    micro_batch = MICRO_BATCH

    def __init__(self) -> None:
        self.steps: list[list[tuple[float, int]]] = []
        self.threads: set[int] = set()
        self.bad = -1.0
        self.unpreparable = -2.0

    def is_token(self, word: str) -> bool:
        """Return False: no word is one."""
        return False

    def prompt_tokens(self, prompt: str, placeholder_token: str, vectors: int) -> int:
        """Return one."""
        return 1

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Return zeros."""
        return np.zeros((len(images), 1), np.float32)

    def losses(self, job: LossJob) -> NDArray[np.float32]:
        """Return all losses, scored in one step."""
        work = self.prepare(job)
        self.score([Slice(work, 0, len(work.losses))])
        return self.result(work)

    def prepare(self, job: LossJob) -> Work:
        """Return work with no row scored, unless the job is one that cannot be prepared."""
        work = Work(job)
        if self.unpreparable in work.base:
            raise RuntimeError("cannot be prepared")
        return work

    def score(self, slices: Sequence[Slice]) -> None:
        """Score rows, unless one is of a candidate that cannot be scored."""
        self.threads.add(threading.get_ident())
        self.steps.append([(float(s.work.base[0]), s.stop - s.start) for s in slices])
        if any(self.bad in s.work.base for s in slices):
            raise RuntimeError("cannot be scored")
        for s in slices:
            rows = np.arange(s.start, s.stop)
            s.work.losses[rows] = s.work.base[rows // s.work.samples] + rows % s.work.samples

    def result(self, work: Work) -> NDArray[np.float32]:
        """Return the losses (B, n)."""
        return work.losses.reshape(-1, work.samples)

    def images(self, job: ImageJob) -> list[Image.Image]:
        """Return all pictures."""
        return list(self.pictures(job))

    def pictures(self, job: ImageJob) -> Iterator[Image.Image]:
        """Yield grey pictures, as bright as their seeds say."""
        for item in job.items:
            self.steps.append([(float(item.seed), 1)])
            yield Image.new("L", (1, 1), item.seed)

    def vocabulary(self, encoder: str) -> tuple[Sequence[str], NDArray[np.float32]]:
        """Return no words."""
        return [], np.zeros((0, 1), np.float32)

    def warm_up(self) -> None:
        """Do nothing."""


def loss_job(base: float, candidates: int, samples: int) -> LossJob:
    """Return a job of candidates whose first number is `base`."""
    bank = [Sample(image=0, prompt=0, t=0.5, seed=i) for i in range(samples)]
    embeddings = np.full((candidates, 1, 1), base, np.float32)
    return LossJob(None, "<sks>", {"e": embeddings}, ["<sks>"], bank)


def image_job(seeds: Sequence[int]) -> ImageJob:
    """Return a job of one picture a seed, each of 20 forwards."""
    items = [ImageItem(candidate=0, prompt=0, seed=seed) for seed in seeds]
    return ImageJob("<sks>", {"e": np.zeros((1, 1, 1), np.float32)}, ["<sks>"], items, 10, 5.0, "", 8, 8)
