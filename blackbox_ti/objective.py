"""What fitness is: banks of (image, prompt, timestep, noise) on which candidates are compared.

All candidates of a generation are scored on one bank (common random numbers), so that their ranks compare the
candidates and not their luck; the bank rotates from one generation to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.wire import Sample

__all__ = ["BankSettings", "ObjectProperty", "draw_bank", "evenly", "fitness_of", "prompts_for"]

Array = NDArray[np.float64]
ObjectProperty = Literal["object", "style"]

# The phrasings of the textual-inversion literature (Gal et al. 2022, arXiv 2208.01618, after CLIP's ImageNet set).
_OBJECT_PROMPTS = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a bright photo of the {}",
    "a photo of one {}",
    "a good photo of the {}",
    "a photo of the nice {}",
    "a rendition of the {}",
)
_STYLE_PROMPTS = (
    "a painting in the style of {}",
    "a rendering in the style of {}",
    "a picture in the style of {}",
    "the painting in the style of {}",
    "a nice painting in the style of {}",
    "a good painting in the style of {}",
)


def prompts_for(learnable_property: ObjectProperty, placeholder_token: str) -> list[str]:
    """Return the training prompts of an object or a style, the placeholder filled in."""
    templates = _OBJECT_PROMPTS if learnable_property == "object" else _STYLE_PROMPTS
    return [t.format(placeholder_token) for t in templates]


@dataclass(frozen=True)
class BankSettings:
    """How samples are drawn: pictures and prompts to choose from, and the range of t in (0, 1).

    A bank uses at most `prompts_at_once` of the prompts; None for all.
    """

    images: int
    prompts: int
    t_min: float = 0.0
    t_max: float = 1.0
    prompts_at_once: int | None = None


def draw_bank(settings: BankSettings, size: int, rng: np.random.Generator) -> list[Sample]:
    """Return `size` samples: timesteps stratified over the range, pictures and prompts spread evenly."""
    width = settings.t_max - settings.t_min
    t = settings.t_min + width * (rng.permutation(size) + rng.uniform(0.001, 0.999, size)) / size
    images = evenly(settings.images, size, rng)
    some = rng.permutation(settings.prompts)[: settings.prompts_at_once]
    prompts = some[evenly(len(some), size, rng)]
    seeds = rng.integers(2**48, size=size)
    return [
        Sample(image=int(images[i]), prompt=int(prompts[i]), t=float(t[i]), seed=int(seeds[i])) for i in range(size)
    ]


def evenly(options: int, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return `size` indices below `options`, each as often as the others to within one, in random order."""
    rounds = -(-size // options)
    return np.concatenate([rng.permutation(options) for _ in range(rounds)])[:size]


def fitness_of(losses: Sequence[Array | None]) -> Array:
    """Return one number a candidate (n,): its mean loss, or for a rejected one more than the worst."""
    means = np.array([np.nan if row is None else float(np.mean(row, dtype=np.float64)) for row in losses])
    known = means[np.isfinite(means)]
    worst = float(known.max()) if len(known) else 0.0
    penalty = worst + (float(np.ptp(known)) if len(known) else 0.0) + 1.0
    return np.where(np.isfinite(means), means, penalty)
