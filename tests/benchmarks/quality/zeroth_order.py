"""Zeroth-order textual inversion with Adam in a subspace of its own trajectory, in the manner of ZOODiP.

Seo et al., arXiv 2503.14868, algorithm 1, and the authors' settings: batch 1, two random directions a step (three
forwards), timesteps 500 to 900 of 1,000, Adam with epsilon 1e-3; every `TAU` steps a PCA of the standardised last `TAU`
embeddings, whose directions beyond a share 1 - `NU` of the variance are taken out of the gradient. Not taken over: the
8-bit weights. The learning rate was swept in its favour, and it starts where the black-box search does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from blackbox_ti.objective import BankSettings, draw_bank, prompts_for
from blackbox_ti.subspace import Embedding
from tests.benchmarks.quality.subjects import Subject
from tests.benchmarks.quality.workbench import WORD, Workbench

__all__ = ["LEARNING_RATE", "LEARNING_RATES", "SubspaceAdam", "directional", "train"]

Array = NDArray[np.float64]

LEARNING_RATES: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
LEARNING_RATE = 1e-3
DIRECTIONS = 2
STEP = 1e-3
TAU, NU = 128, 1e-3
T_MIN, T_MAX = 0.5, 0.9


@dataclass
class SubspaceAdam:
    """Adam whose gradient keeps out of the directions in which the last `tau` points hardly varied."""

    rate: float
    tau: int = TAU
    nu: float = NU
    epsilon: float = 1e-3
    count: int = 0
    _m: Array | float = 0.0
    _v: Array | float = 0.0
    _left_out: Array | None = None
    _history: list[Array] = field(default_factory=list)

    def step(self, point: Array, gradient: Array) -> Array:
        """Return the next point (N,)."""
        if self._left_out is not None:
            gradient = gradient - self._left_out.T @ (self._left_out @ gradient)
        self.count += 1
        self._m = 0.9 * self._m + 0.1 * gradient
        self._v = 0.999 * self._v + 0.001 * gradient**2
        m, v = self._m / (1 - 0.9**self.count), self._v / (1 - 0.999**self.count)
        moved = point - self.rate * m / (np.sqrt(v) + self.epsilon)
        self._history = [*self._history[-self.tau + 1 :], moved]
        if self.count % self.tau == 0:
            self._left_out = _hardly_varied(np.stack(self._history), self.nu)
        return np.asarray(moved)


def _hardly_varied(history: Array, nu: float) -> Array:
    """Return the principal directions (k, N) of points (n, N) beyond a share 1 - nu of the standardised variance."""
    spread = history.std(axis=0)
    scaled = (history - history.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    _, singular, axes = np.linalg.svd(scaled, full_matrices=False)
    share = np.cumsum(singular**2) / max(float(np.sum(singular**2)), 1e-300)
    kept = int(np.searchsorted(share, 1 - nu, side="right")) + 1
    return np.asarray(axes[kept:])


def directional(losses: Array, directions: Array, step: float) -> Array:
    """Return the gradient's estimate (N,) from losses (1 + n,) at a point and a step along each direction (n, N)."""
    slopes = (losses[1:] - losses[0]) / step
    count = len(directions)
    scale = np.sqrt((directions.shape[1] + count - 1) / count) * count
    return np.asarray(slopes @ directions / scale)


def train(
    bench: Workbench, subject: Subject, start: Embedding, *, forwards: int, rate: float, seed: int, every: int
) -> Iterator[tuple[int, Embedding]]:
    """Yield (forwards spent, embedding) about `every` forwards and at the end."""
    latents = bench.latents(subject.references())
    prompts = prompts_for(subject.learnable_property, WORD)
    settings = BankSettings(len(latents), len(prompts), T_MIN, T_MAX)
    rng = np.random.default_rng([seed, *b"zeroth"])
    shape = start[bench.encoder].shape
    point, optimizer, cost = start[bench.encoder].reshape(-1).astype(np.float64), SubspaceAdam(rate), 1 + DIRECTIONS
    steps = forwards // cost
    for step in range(1, steps + 1):
        directions = rng.standard_normal((DIRECTIONS, point.size))
        points = np.concatenate([point[None], point + STEP * directions]).reshape(cost, *shape)
        with torch.inference_mode():
            vectors = torch.from_numpy(points.astype(np.float32))
            losses = bench.losses(vectors, latents, prompts, draw_bank(settings, 1, rng)).double().numpy()[:, 0]
        point = optimizer.step(point, directional(losses, directions, STEP))
        if step % max(1, every // cost) == 0 or step == steps:
            yield step * cost, {bench.encoder: point.reshape(shape).astype(np.float32)}
