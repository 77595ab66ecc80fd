"""Forwards a second of the engine beside its limit: `python -m tests.benchmarks.throughput [--model DIR]`.

All arms run in turn, round after round, in one process, so that a busy machine slows them alike:

- `bare`: the denoiser alone in a loop, at the engine's micro-batch, its inputs ready: the limit;
- `engine`: a generation of 20 candidates x 8 samples, its texts encoded and its noise drawn;
- `engine, 8 prompts`: the same with a prompt of its own for each sample, so 160 texts instead of 20;
- `lane, 4 accounts`: the same generation from four accounts, 5 candidates each, through the lane;
- `one by one`: as the reference code of the paper works: one candidate and sample at a time, with its picture, its
  prompt and its noise made anew.

Figures are medians over the rounds, with the least and the most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from blackbox_ti.wire import Sample
from server_stub.batching import Lane
from server_stub.diffusers_engine import DiffusersEngine
from server_stub.engine import LossJob
from tests.benchmarks.machine import machine

_WORD = "<sks>"
_PROMPTS = [f"{start} {_WORD}" for start in ("a photo of", "a picture of", "an image of", "a sketch of", "one", "my")]
_PROMPTS += [f"a rendering of {_WORD}", f"{_WORD} on a blue background"]
_GROWTH = ((4, 4), (8, 8), (16, 16), (32, 32), (64, 64))

Arm = Callable[[], int]


def _job(engine: DiffusersEngine, candidates: int, samples: int, prompts: int = 1) -> LossJob:
    rng = np.random.default_rng(0)
    side = engine.info.resolution
    pixels = rng.integers(0, 256, (5, side, side, 3), dtype=np.uint8)
    embeddings = {
        e.name: rng.normal(0, e.norm_mean / e.dim**0.5, (candidates, 1, e.dim)).astype(np.float32)
        for e in engine.info.encoders
    }
    bank = [Sample(image=i % 5, prompt=i % prompts, t=(i + 0.5) / samples, seed=i) for i in range(samples)]
    latents = engine.encode_images([Image.fromarray(picture) for picture in pixels])
    return LossJob(latents, _WORD, embeddings, _PROMPTS[:prompts], bank)


def _bare(engine: DiffusersEngine, rows: int) -> Arm:
    """Return a loop of denoiser passes over inputs that are ready."""
    size = engine.micro_batch
    work = engine.prepare(_job(engine, 1, size))
    with torch.inference_mode():
        ready = work.inputs(0, size)

    def run() -> int:
        with torch.inference_mode():
            for _ in range(rows // size):
                prediction = engine.family.denoise(ready.noisy, ready.timestep, ready.conditioning)
            prediction.float().sum().item()
        return rows // size * size

    return run


def _scored(engine: DiffusersEngine, job: LossJob) -> Arm:
    return lambda: engine.losses(job).size


def _lane(engine: DiffusersEngine, job: LossJob, accounts: int) -> Arm:
    parts = [{name: rows[i::accounts] for name, rows in job.embeddings.items()} for i in range(accounts)]

    def run() -> int:
        lane = Lane(engine)
        futures = [lane.score(str(i), replace(job, embeddings=part)) for i, part in enumerate(parts)]
        scored = sum(future.result().size for future in futures)
        lane.close()
        return scored

    return run


def _one_by_one(engine: DiffusersEngine, job: LossJob, rows: int) -> Arm:
    """Return a loop that makes everything anew for each row, one row a pass."""
    side = engine.info.resolution
    picture = Image.new("RGB", (side, side), "orange")

    def run() -> int:
        for i in range(rows):
            with torch.inference_mode():
                _one(engine, job, i, picture)
        return rows

    return run


def _one(engine: DiffusersEngine, job: LossJob, i: int, picture: Image.Image) -> float:
    family, sample = engine.family, job.samples[i % len(job.samples)]
    latents = family.encode_image(picture)
    noise = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(sample.seed)).to(latents)
    noisy, target, timestep = family.diffuse(latents, noise, torch.tensor([sample.t], dtype=torch.float64))
    texts = {e.name: e.tokenize([e.substitute(job.prompts[0], _WORD, 1)]).to(latents.device) for e in family.encoders}
    candidate = i % 20
    with family.holding({name: torch.tensor(all_[candidate : candidate + 1]) for name, all_ in job.embeddings.items()}):
        conditioning = family.encode_text(texts)
    return float((family.denoise(noisy, timestep, conditioning).float() - target).square().mean())


def _measure(arms: dict[str, Arm], rounds: int, clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """Return each arm's forwards a second: median, least and most."""
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():
        arm()
    for _ in range(rounds):
        for name, arm in arms.items():
            started = clock()
            forwards = arm()
            rates[name].append(forwards / (clock() - started))
    return {n: {"median": statistics.median(r), "least": min(r), "most": max(r)} for n, r in rates.items()}


def _arms(engine: DiffusersEngine, growth: bool) -> dict[str, Arm]:
    job = _job(engine, 20, 8)
    arms = {
        "bare": _bare(engine, 160),
        "engine": _scored(engine, job),
        "engine, 8 prompts": _scored(engine, _job(engine, 20, 8, prompts=8)),
        "lane, 4 accounts": _lane(engine, job, 4),
        "one by one": _one_by_one(engine, job, 16),
    }
    if growth:
        arms |= {f"engine, {b} x {n}": _scored(engine, _job(engine, b, n)) for b, n in _GROWTH}
    return arms


def main() -> None:
    """Measure and print a table, and JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a diffusers directory, a hub id, or tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--threads", type=int, help="torch's threads (all cores)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--growth", action="store_true", help="also 16 to 4,096 forwards a request")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time instead of wall time, for busy machines"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    engine = DiffusersEngine.load(args.model, device=args.device, dtype=args.dtype, micro_batch=args.micro_batch)
    engine.warm_up()
    settings: dict[str, Any] = {
        "model": args.model,
        "dtype": args.dtype,
        "device": str(engine.device),
        "micro_batch": engine.micro_batch,
        "threads": torch.get_num_threads(),
        "clock": "processor" if args.cpu_time else "wall",
        "rounds": args.rounds,
        "seed": 0,
    }
    rates = _measure(_arms(engine, args.growth), args.rounds, time.process_time if args.cpu_time else time.perf_counter)
    for key, value in (machine() | settings).items():
        print(f"{key:>18}: {value}")
    print(f"\n{'arm':<20}{'forwards/s':>12}{'least':>9}{'most':>9}{'of bare':>10}")
    for name, rate in rates.items():
        share = rate["median"] / rates["bare"]["median"]
        print(f"{name:<20}{rate['median']:>12.1f}{rate['least']:>9.1f}{rate['most']:>9.1f}{share:>10.1%}")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "settings": settings, "rates": rates}, indent=2) + "\n")


if __name__ == "__main__":
    main()
