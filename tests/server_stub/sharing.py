"""Jobs of candidates that differ, and what an engine makes of them when it shares nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from server_stub.diffusers_engine import DiffusersEngine
from server_stub.engine import LossJob, Slice
from server_stub.warm_up import warm_job

__all__ = ["RoundingEngine", "job_of", "plain_losses"]


class RoundingEngine(DiffusersEngine):
    """A device on which a pass that is spared something gives other bits."""

    def score(self, slices: Sequence[Slice]) -> None:
        """Score rows, the first of them wrongly."""
        super().score(slices)
        if self.stems is not None or self.branch is not None:
            with torch.inference_mode():
                slices[0].work.keep(slices[0].start, torch.zeros(1))


def job_of(engine: DiffusersEngine, candidates: int, samples: int) -> LossJob:
    """Return a job of candidates far apart on as many different samples."""
    drawn = np.random.default_rng(0)
    vectors = {e.name: drawn.normal(size=(candidates, 1, e.dim)).astype(np.float32) for e in engine.info.encoders}
    return replace(warm_job(engine, samples), embeddings=vectors)


def plain_losses(engine: DiffusersEngine, job: LossJob) -> NDArray[np.float32]:
    """Return the losses of a job in passes that compute everything for every row."""
    kept = engine.stems, engine.branch
    engine.stems = engine.branch = None
    try:
        return engine.losses(job)
    finally:
        engine.stems, engine.branch = kept
