"""The training pictures, rendered once into the work folder, and the batches drawn from them."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server_stub.tiny.world import Scene, caption, full_caption, random_scene, render

__all__ = ["Pictures", "load_pictures", "step_rng", "to_tensor"]

log = logging.getLogger(__name__)
_CHUNK = 500


@dataclass(frozen=True)
class Pictures:
    """Rendered pictures (n, 64, 64, 3) uint8 and their scenes."""

    pixels: NDArray[np.uint8]
    scenes: list[Scene]

    def __len__(self) -> int:
        return len(self.scenes)

    def batch(self, rng: np.random.Generator, size: int, *, whole: float = 0.0) -> tuple[NDArray[np.int64], list[str]]:
        """Draw `size` indices and a fresh caption for each; a share `whole` of the captions leaves nothing out."""
        indices = rng.integers(len(self), size=size)
        captions = [caption(self.scenes[i], rng) for i in indices]
        if whole:
            captions = [full_caption(self.scenes[i]) if rng.random() < whole else c
                        for i, c in zip(indices, captions, strict=True)]  # fmt: skip
        return indices, captions


def step_rng(seed: int, stage: str, step: int) -> np.random.Generator:
    """Return the generator of one training step, the same however often training was interrupted."""
    return np.random.default_rng([seed, *stage.encode(), step])


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Return pixels (n, H, W, 3) uint8 as (n, 3, H, W) float32 in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float().div_(127.5).sub_(1.0)


def _render_chunk(scenes: list[Scene]) -> NDArray[np.uint8]:
    return np.stack([render(scene) for scene in scenes])


def load_pictures(work: Path, seed: int, count: int) -> Pictures:
    """Return `count` training pictures, rendered on all cores the first time and read from `work` after that."""
    rng = step_rng(seed, "pictures", 0)
    scenes = [random_scene(rng) for _ in range(count)]
    path = work / f"pictures-{seed}-{count}.npy"
    if not path.exists():
        log.info("rendering %d pictures", count)
        chunks = [scenes[i : i + _CHUNK] for i in range(0, count, _CHUNK)]
        with ProcessPoolExecutor() as pool:
            pixels = np.concatenate(list(pool.map(_render_chunk, chunks)))
        partial = path.with_suffix(".partial.npy")
        np.save(partial, pixels)
        partial.rename(path)
    return Pictures(np.load(path, mmap_mode="r"), scenes)
