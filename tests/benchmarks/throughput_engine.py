"""The engine in this process, without HTTP: beside its limit, beside the reference code's loop, form beside form.

- `bare`: the denoiser alone in a loop, at the best of some batch sizes, its inputs ready: the limit;
- `engine`: a generation of 20 candidates x 8 samples, its texts encoded and its noise drawn; with 8 prompts, 160 texts
  instead of 20; through the lane, from four accounts;
- `loop, N at a time`: as the paper's reference code works (github.com/feizc/Gradient-Free-Textual-Inversion,
  train_inversion.py): one candidate at a time, and for each batch of N samples the pictures, the prompts and the noise
  anew. Its own N is 5.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from server_stub.batching import Lane
from server_stub.diffusers_engine import DiffusersEngine
from server_stub.engine import LossJob
from server_stub.warm_up import warm_job
from tests.benchmarks.throughput_questions import CANDIDATES, SAMPLES, WORD, Options, job, pictures
from tests.benchmarks.throughput_rounds import Arm, Table, rate_table, rates_of

__all__ = ["bare", "best_batch", "forms", "loop", "run"]

_SIZES = (1, 2, 4, 8, 16, 32, 64)
_LARGE = 100_000_000
_FORMS: dict[str, dict[str, object]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "float32, channels-last": {"channels_last": True},
    "bfloat16, channels-last": {"dtype": "bfloat16", "channels_last": True},
    "float32, int8": {"int8": True},
    "bfloat16, int8": {"dtype": "bfloat16", "int8": True},
    "float32, compiled": {"compile": True},
    "bfloat16, compiled": {"dtype": "bfloat16", "compile": True},
}


def bare(engine: DiffusersEngine, rows: int, size: int, denoise: Callable[..., torch.Tensor] | None = None) -> Arm:
    """Return a loop of denoiser passes of `size` over inputs that are ready."""
    work = engine.prepare(warm_job(engine, size))
    with torch.inference_mode():
        ready = work.inputs(0, size)
    denoise = denoise or engine.family.denoise

    def run() -> int:
        with torch.inference_mode():
            for _ in range(max(1, rows // size)):
                prediction = denoise(ready.noisy, ready.timestep, ready.conditioning)
            prediction.float().sum().item()
        return max(1, rows // size) * size

    return run


def best_batch(engine: DiffusersEngine) -> tuple[int, dict[int, float]]:
    """Return the batch size of the highest rate of the bare denoiser, and all rates, each the best of three."""
    weights = sum(parameter.numel() for parameter in engine.family.denoiser.parameters())
    rates: dict[int, float] = {}
    for size in _SIZES[:4] if weights > _LARGE and engine.device.type == "cpu" else _SIZES:
        arm = bare(engine, size, size)
        arm()
        for _ in range(3):
            started = time.perf_counter()
            rates[size] = max(rates.get(size, 0.0), arm() / (time.perf_counter() - started))
    return max(rates, key=rates.__getitem__), rates


def _scored(engine: DiffusersEngine, asked: LossJob) -> Arm:
    return lambda: engine.losses(asked).size


def _lane(engine: DiffusersEngine, asked: LossJob, accounts: int) -> Arm:
    parts = [{name: rows[i::accounts] for name, rows in asked.embeddings.items()} for i in range(accounts)]

    def run() -> int:
        lane = Lane(engine)
        futures = [lane.score(str(i), replace(asked, embeddings=part)) for i, part in enumerate(parts)]
        scored = sum(future.result().size for future in futures)
        lane.close()
        return scored

    return run


def loop(engine: DiffusersEngine, rows: int, at_a_time: int) -> Arm:
    """Return a loop that makes everything anew for each batch of one candidate's samples."""
    asked = job(engine, samples=max(at_a_time, SAMPLES))

    def run() -> int:
        batches = max(1, rows // at_a_time)
        for i in range(batches):
            with torch.inference_mode():
                _batch(engine, asked, i % CANDIDATES, at_a_time)
        return batches * at_a_time

    return run


def _batch(engine: DiffusersEngine, asked: LossJob, candidate: int, size: int) -> float:
    """Return the mean loss of one candidate on a batch, as the reference code computes it."""
    family, vae = engine.family, engine.pipe.vae
    pixels = torch.cat([engine.pipe.image_processor.preprocess(p) for p in pictures(engine.info.resolution, size)])
    latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.sample().float() * vae.config.scaling_factor
    t = torch.tensor([sample.t for sample in asked.samples[:size]], dtype=torch.float64)
    noisy, target, timestep = family.diffuse(latents, torch.randn(latents.shape).to(latents), t)
    texts = {
        e.name: e.tokenize([e.substitute(asked.prompts[0], WORD, 1)] * size).to(latents.device) for e in family.encoders
    }
    vectors = {name: torch.from_numpy(rows[candidate : candidate + 1]) for name, rows in asked.embeddings.items()}
    with family.holding(vectors):
        conditioning = family.encode_text(texts)
    return float((family.denoise(noisy, timestep, conditioning).float() - target).square().mean())


def run(options: Options) -> list[Table]:
    """Measure the engine's arms."""
    engine = options.engine()
    best, rates = best_batch(engine)
    engine.micro_batch = options.micro_batch or best
    engine.warm_up()
    generation = CANDIDATES * SAMPLES
    arms = {
        "bare": bare(engine, generation, best),
        "engine": _scored(engine, job(engine)),
        "engine, 8 prompts": _scored(engine, job(engine, texts=8)),
        "lane, 4 accounts": _lane(engine, job(engine), 4),
        "loop, 5 at a time": loop(engine, generation // 4, 5),
        "loop, 1 at a time": loop(engine, generation // 8, 1),
    }
    notes = [f"micro-batch {engine.micro_batch}; bare at {best}"]
    measured = rates_of(arms, options.rounds, reference="bare")
    sweep = Table("The bare denoiser by batch size", {str(size): {"forwards/s": rate} for size, rate in rates.items()})
    return [sweep, rate_table("The engine in one process", measured, reference="bare", notes=notes)]


def forms(options: Options) -> list[Table]:
    """Measure the engine's forms of the same model beside the float32 loop of the reference code."""
    arms: dict[str, Arm] = {}
    for name, form in _FORMS.items():
        engine = options.engine(**form)
        best, _ = best_batch(engine)
        engine.micro_batch = options.micro_batch or best
        engine.warm_up()
        arms[f"{name} (batch {engine.micro_batch})"] = _scored(engine, job(engine))
        if name == "float32":
            arms["loop, 5 at a time"] = loop(engine, CANDIDATES * SAMPLES // 4, 5)
    rates = rates_of(arms, options.rounds, reference="loop, 5 at a time")
    title = "Forms of the model, a generation in one process"
    return [rate_table(title, rates, reference="loop, 5 at a time")]
