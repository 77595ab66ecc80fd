"""What an engine finds out about itself before it serves: how many rows a denoiser pass should and may have."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blackbox_ti.wire import ImageItem, Sample
from server_stub.engine import ImageJob, LossJob, Slice
from server_stub.families import Conditioning
from server_stub.stem import Stem, StemKeeper
from server_stub.text_branch import TextBranch

if TYPE_CHECKING:
    from server_stub.diffusers_engine import DiffusersEngine

__all__ = ["agreeing_passes", "measured_micro_batch", "places_agree", "share", "warm_job", "warm_pictures"]

_WORD: Final = "<sks>"
_PICTURE_STEPS: Final = 5
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
_GOOD_ENOUGH: Final = 0.98
_FALLING: Final = 0.9
_MOST_BRANCH_BYTES: Final = 64 * 2**20


def warm_job(engine: DiffusersEngine, rows: int) -> LossJob:
    """Return a loss job of one candidate and `rows` different samples of a blank picture."""
    side = engine.info.resolution
    latents = engine.encode_images([Image.new("RGB", (side, side))])
    embeddings = {encoder.name: np.zeros((1, 1, encoder.dim), np.float32) for encoder in engine.info.encoders}
    samples = [Sample(image=0, prompt=0, t=(i + 0.5) / rows, seed=i) for i in range(rows)]
    return LossJob(latents, _WORD, embeddings, [_WORD], samples)


def warm_pictures(engine: DiffusersEngine) -> None:
    """Make one small run of the whole pipeline."""
    job = warm_job(engine, 1)
    side = engine.info.resolution
    item = ImageItem(candidate=0, prompt=0, seed=0)
    engine.images(ImageJob(_WORD, job.embeddings, [_WORD], [item], _PICTURE_STEPS, 2.0, "", side, side))


def places_agree(engine: DiffusersEngine) -> bool:
    """Return whether rows have the same losses, bit for bit, when they change places in a micro-batch.

    Turning the rows by one compares each place with the next; larger turns and a reversal change the neighbours too.
    """
    size = engine.micro_batch
    job = warm_job(engine, size)
    expected = engine.losses(job)[0]
    places = list(range(size))
    orders = [places[turn:] + places[:turn] for turn in (1, size // 2)] + [places[::-1]]
    for order in orders:
        samples = [job.samples[i] for i in order]
        losses = engine.losses(LossJob(job.latents, _WORD, job.embeddings, job.prompts, samples))[0]
        if not np.array_equal(losses, expected[order], equal_nan=True):
            return False
    return True


def agreeing_passes(engine: DiffusersEngine) -> tuple[int, ...]:
    """Return the halves, quarters and so on of a micro-batch whose passes give every row the bits of a whole one.

    The first that does not ends the search. Kernels are chosen by shape, not by what they are given: where another one
    were at work, losses of different rows would show it.
    """
    job = warm_job(engine, engine.micro_batch)
    expected = engine.losses(job)
    found: list[int] = []
    size = engine.micro_batch // 2
    while size and engine.micro_batch % size == 0 and np.array_equal(_in_passes(engine, job, size), expected):
        found.append(size)
        size //= 2
    return tuple(found)


def share(engine: DiffusersEngine) -> None:
    """Let an engine run once what passes share, as far as it keeps little and changes no bit of a loss.

    Takes five passes: only on more rows than one pass holds is a stem shared at all.
    """
    engine.branch, engine.stems = None, None
    if engine.micro_batch < 2:  # one row has nothing to be compared with
        return
    job = _candidates(warm_job(engine, engine.micro_batch), 2)
    expected = engine.losses(job)
    with torch.inference_mode():
        branch, stem = _branch(engine, job), _stem(engine)
    engine.branch, engine.stems = branch, stem
    if not np.array_equal(engine.losses(job), expected):
        engine.branch, engine.stems = None, None


def _branch(engine: DiffusersEngine, job: LossJob) -> TextBranch | None:
    if engine.placement.offload:  # the denoiser is not there when texts are encoded
        return None
    run, conditioning = _pass(engine, job)
    branch = TextBranch.of(engine.family.denoiser, run, conditioning)
    kept = branch.with_outputs(conditioning) if branch else {}
    return branch if sum(tensor.nbytes for tensor in kept.values()) <= _MOST_BRANCH_BYTES else None


def _stem(engine: DiffusersEngine) -> StemKeeper | None:
    run, _ = _pass(engine, _candidates(warm_job(engine, 1), engine.micro_batch))
    stem = Stem.of(engine.family.denoiser, run)
    return StemKeeper(stem, engine.denoise) if stem else None


def _pass(engine: DiffusersEngine, job: LossJob) -> tuple[Callable[[], Tensor], Conditioning]:
    """Return the denoiser's pass over the rows of a job, and the conditioning it is given."""
    inputs = engine.prepare(job).inputs(0, engine.micro_batch)
    return partial(engine.denoise, inputs.noisy, inputs.timestep, inputs.conditioning), inputs.conditioning


def _candidates(job: LossJob, count: int) -> LossJob:
    """Return the job with `count` candidates, no two the same."""
    scale = np.linspace(0.1, 0.2, count, dtype=np.float32)[:, None, None]
    return replace(job, embeddings={name: scale + rows for name, rows in job.embeddings.items()})


def _in_passes(engine: DiffusersEngine, job: LossJob, size: int) -> NDArray[np.float32]:
    """Return the losses of a job in passes of another size than the micro-batch."""
    whole, engine.micro_batch = engine.micro_batch, size
    try:
        return engine.losses(job)
    finally:
        engine.micro_batch = whole


def measured_micro_batch(engine: DiffusersEngine) -> int:
    """Return the smallest of some sizes whose rate is within 2 % of the best, as measured on this machine now."""
    rates: dict[int, float] = {}
    for size in _SIZES:
        engine.micro_batch = size
        try:
            rates[size] = _rate(engine, size)
        except (MemoryError, RuntimeError):  # out of memory: larger sizes will be too
            break
        if rates[size] < _FALLING * max(rates.values()):
            break
    return next((size for size, rate in rates.items() if rate >= _GOOD_ENOUGH * max(rates.values())), 1)


def _rate(engine: DiffusersEngine, size: int, passes: int = 3) -> float:
    """Return rows a second at a micro-batch of `size`, after a pass to warm up."""
    work = engine.prepare(warm_job(engine, size))
    engine.score([Slice(work, 0, size)])
    engine.result(work)
    started = time.perf_counter()
    for _ in range(passes):
        engine.score([Slice(work, 0, size)])
    engine.result(work)
    return passes * size / (time.perf_counter() - started)
