"""What exact gradients do at the price of losses: `python -m tests.benchmarks.priced_gradients --out DIR [--mark N]`.

A loss is one number, so a sample's gradient in k axes takes k + 1 of them: one at the word and one along each axis. Here
that gradient is had exactly, by differentiation, and charged at that price, from the search's own start: a yardstick for
what can be learned from so many forwards. The axes are the search's own (the principal ones of the words), or, which no
search can know, those in which the gradients at the start vary most. Each runs at two learning rates, and the better one
on the bank of the report counts. Beside them stand the search itself, and the gradient in all coordinates after as few
samples. Concepts are those of the ablation; cells are kept and resumed as there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.initialise import whole_words
from blackbox_ti.objective import BankSettings, draw_bank, prompts_for
from blackbox_ti.settings import InversionSettings
from blackbox_ti.subspace import Embedding, principal_axes
from tests.benchmarks.machine import machine
from tests.benchmarks.quality.__main__ import add_job, finish, job_of
from tests.benchmarks.quality.matrix import cells_of
from tests.benchmarks.quality.measures import heldout_loss
from tests.benchmarks.quality.methods import METHODS, Learned, Method, arm, start_of
from tests.benchmarks.quality.subjects import DEVELOPMENT, Subject
from tests.benchmarks.quality.tables import main_table, shares_table
from tests.benchmarks.quality.workbench import WORD, Workbench

__all__ = ["descend", "few_samples", "gradient_axes", "main", "priced", "word_axes"]

Array = NDArray[np.float64]
Axes = Callable[[Workbench, Subject, Embedding, int], Array]

BATCH: Final = 2
LEARNING_RATES: Final = (0.1, 0.3)
_GRADIENTS: Final = 64
_AVERAGED: Final = 0.25


def word_axes(bench: Workbench, _subject: Subject, _start: Embedding, count: int) -> Array:
    """Return the search's own axes (count, D)."""
    vocabulary = Vocabulary(*bench.engine.vocabulary(bench.encoder))
    return principal_axes(whole_words(vocabulary).embeddings, count)


def gradient_axes(bench: Workbench, subject: Subject, start: Embedding, count: int) -> Array:
    """Return axes (count, D) in which the gradients of single samples vary most at the start, in units of the words'."""
    every = word_axes(bench, subject, start, start[bench.encoder].shape[1] - 1)
    latents, prompts = bench.latents(subject.references()), prompts_for(subject.learnable_property, WORD)
    bank = draw_bank(BankSettings(len(latents), len(prompts)), _GRADIENTS, np.random.default_rng([*b"axes"]))
    rows = []
    for sample in bank:
        z = torch.zeros(len(every), requires_grad=True)
        point = torch.from_numpy(start[bench.encoder]) + z @ torch.from_numpy(every.astype(np.float32))
        loss = bench.losses(point[None], latents, prompts, [sample]).mean()
        rows.append(torch.autograd.grad(loss, z)[0].double().numpy())
    _, _, directions = np.linalg.svd(np.stack(rows), full_matrices=False)
    return np.asarray(directions[:count] @ every)


def priced(name: str, count: int, axes_of: Axes) -> Method:
    """Return Adam on exact gradients in `count` axes, each sample charged count + 1 forwards, after the start's own."""

    def run(bench: Workbench, subject: Subject, seed: int, mark: int) -> Learned:
        start, spent = start_of(bench, subject, _settings(subject, seed, mark))
        axes = axes_of(bench, subject, start.embedding, count)
        samples = (mark - spent) // (count + 1)
        started = time.perf_counter()
        ends = [descend(bench, subject, start.embedding, axes, samples, rate, seed) for rate in LEARNING_RATES]
        latents = bench.latents(subject.references())
        losses = [heldout_loss(bench, subject, latents, end) for end in ends]
        told = {"start": start.description, "samples": samples, "rate": LEARNING_RATES[int(np.argmin(losses))]}
        seconds = time.perf_counter() - started
        return Learned(ends[int(np.argmin(losses))], None, spent + samples * (count + 1), seconds, [], told)

    return Method(name, {"axes": count, "batch": BATCH, "rates": LEARNING_RATES}, run)


def descend(
    bench: Workbench, subject: Subject, start: Embedding, axes: Array, samples: int, rate: float, seed: int
) -> Embedding:
    """Return the average of the last points of a descent whose steps shrink to nothing."""
    points = list(_steps(bench, subject, start, axes, samples // BATCH, rate, seed))
    last = points[-max(1, round(_AVERAGED * len(points))) :]
    return {bench.encoder: np.asarray(np.mean(last, axis=0), np.float32)}


def _steps(
    bench: Workbench, subject: Subject, start: Embedding, axes: Array, steps: int, rate: float, seed: int
) -> Iterator[NDArray[np.float32]]:
    latents, prompts = bench.latents(subject.references()), prompts_for(subject.learnable_property, WORD)
    settings, rng = BankSettings(len(latents), len(prompts)), np.random.default_rng([seed, *b"priced"])
    origin, moves = torch.from_numpy(start[bench.encoder]), torch.from_numpy(axes.astype(np.float32))
    z = torch.nn.Parameter(torch.zeros(len(axes)))
    optimizer = torch.optim.Adam([z], lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(steps, 1))
    for _ in range(steps):
        loss = bench.losses((origin + z @ moves)[None], latents, prompts, draw_bank(settings, BATCH, rng)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        yield (origin + z @ moves).detach().numpy().copy()


def few_samples(samples: int) -> Method:
    """Return the gradient in all coordinates after so few samples, whatever the mark."""
    method = METHODS["gradient"]
    name = f"gradient, {samples:,} samples"
    return Method(name, method.config, lambda b, s, seed, _mark: method.run(b, s, seed, samples))


def _settings(subject: Subject, seed: int, mark: int) -> InversionSettings:
    return InversionSettings(seed=seed, learnable_property=subject.learnable_property, max_forwards=mark)


def main() -> None:
    """Run them beside the search and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job(parser)
    parser.add_argument("--mark", type=int, default=5000)
    args = parser.parse_args()
    rivals = [priced(f"gradients in {k} axes of the words", k, word_axes) for k in (16, 32, 64)]
    rivals += [priced(f"gradients in {k} axes of theirs", k, gradient_axes) for k in (16, 32)]
    methods = [METHODS["word"], METHODS["start"], arm("defaults"), *rivals, few_samples(128), few_samples(256)]
    job = job_of(args, pictures=False)
    subjects, seeds = DEVELOPMENT[: args.concepts], range(1, args.seeds + 1)
    cells = cells_of([METHODS["gradient"]], [5000], subjects, seeds) + cells_of(methods, [args.mark], subjects, seeds)
    found = finish(job, cells, args)
    print(json.dumps(machine() | {"weights": job.folder.name, "forwards": str(args.mark)}, indent=2))
    print(main_table(found), end="\n\n")
    print(shares_table(found))


if __name__ == "__main__":
    main()
