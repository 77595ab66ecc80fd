"""Textual inversion by gradients, as diffusers' `textual_inversion.py` does it: AdamW on the placeholder's row alone.

What differs from the script is in its favour: the learning rate was swept, timesteps are stratified over a batch, no
picture is flipped, and it starts where the black-box search does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from blackbox_ti.objective import BankSettings, draw_bank, prompts_for
from blackbox_ti.subspace import Embedding
from tests.benchmarks.quality.subjects import Subject
from tests.benchmarks.quality.workbench import WORD, Workbench

__all__ = ["BATCH", "LEARNING_RATE", "LEARNING_RATES", "train"]

BATCH = 8
LEARNING_RATES: Sequence[float] = (5e-3, 1e-2, 2e-2, 3e-2, 5e-2)
LEARNING_RATE = 3e-2


def train(
    bench: Workbench, subject: Subject, start: Embedding, *, samples: int, rate: float, seed: int, every: int
) -> Iterator[tuple[int, Embedding]]:
    """Yield (forward and backward samples spent, embedding) about `every` samples and at the end."""
    latents = bench.latents(subject.references())
    prompts = prompts_for(subject.learnable_property, WORD)
    settings = BankSettings(len(latents), len(prompts))
    rng = np.random.default_rng([seed, *b"gradient"])
    row = torch.nn.Parameter(torch.from_numpy(np.array(start[bench.encoder])))
    optimizer = torch.optim.AdamW([row], lr=rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    steps = samples // BATCH
    for step in range(1, steps + 1):
        loss = bench.losses(row[None], latents, prompts, draw_bank(settings, BATCH, rng)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % max(1, every // BATCH) == 0 or step == steps:
            yield step * BATCH, {bench.encoder: row.detach().numpy().copy()}
