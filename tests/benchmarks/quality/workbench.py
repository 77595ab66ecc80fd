"""The model under test in this process: losses with or without a gradient, pictures in batches, CLIP, memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blackbox_ti.clip import Clip
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import Sample
from server_stub.diffusers_engine import DiffusersEngine
from server_stub.engine import LossJob
from server_stub.tiny import CLIP_DIR, WEIGHTS_DIR
from server_stub.tiny.naming import Namer
from tests.benchmarks.machine import memory, reset_peak

__all__ = ["WORD", "PeakMemory", "Workbench", "weights_id"]

WORD = "<sks>"
STEPS, GUIDANCE = 25, 5.0
_PICTURES_AT_ONCE = 16


class Workbench:
    """One loaded model with one text encoder, and the small CLIP that judges its pictures."""

    def __init__(self, threads: int | None = None) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.engine = DiffusersEngine.load("tiny", micro_batch=32)
        for parameter in (*self.engine.pipe.unet.parameters(), *self.engine.pipe.text_encoder.parameters()):
            parameter.requires_grad_(requires_grad=False)
        self.clip = Clip(CLIP_DIR)
        self.namer = Namer(self.clip)
        (self._encoder,) = self.engine.family.encoders

    @property
    def encoder(self) -> str:
        """The name of the text encoder."""
        return self._encoder.name

    def latents(self, references: Sequence[Image.Image]) -> Tensor:
        """Return the references' latents (n, C, h, w)."""
        return torch.from_numpy(np.array(self.engine.encode_images(references)))

    def losses(self, vectors: Tensor, latents: Tensor, prompts: Sequence[str], bank: Sequence[Sample]) -> Tensor:
        """Return losses (B, n) of candidates (B, T, D) on a bank, with a gradient where `vectors` asks for one."""
        family, encoder = self.engine.family, self._encoder
        texts = [encoder.substitute(prompts[s.prompt], WORD, vectors.shape[1]) for s in bank]
        ids = encoder.tokenize(texts).repeat(len(vectors), 1)
        with family.holding({encoder.name: vectors.repeat_interleave(len(bank), dim=0)}):
            conditioning = family.encode_text({encoder.name: ids})
        pictures = latents[[s.image for s in bank]]
        noise = torch.stack([_noise(s.seed, latents.shape[1:]) for s in bank])
        t = torch.tensor([s.t for s in bank], dtype=torch.float64)
        rows = [x.repeat(len(vectors), *[1] * (x.dim() - 1)) for x in family.diffuse(pictures, noise, t)]
        prediction = family.denoise(rows[0], rows[2], conditioning)
        return (prediction - rows[1]).square().flatten(1).mean(dim=1).reshape(len(vectors), len(bank))

    def scored(
        self, embeddings: Embedding, latents: Tensor, prompts: Sequence[str], bank: Sequence[Sample]
    ) -> NDArray[np.float32]:
        """Return losses (B, n) by the engine itself; prompts without the word are scored as they stand."""
        return self.engine.losses(LossJob(latents.numpy(), WORD, embeddings, list(prompts), list(bank)))

    def pictures(self, embedding: Embedding, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Return a picture a prompt and seed, drawn in batches, guidance and steps as a user gets them."""
        vectors = torch.from_numpy(np.array(embedding[self.encoder])[None])
        made: list[Image.Image] = []
        for first in range(0, len(prompts), _PICTURES_AT_ONCE):
            texts = [
                self._encoder.substitute(p, WORD, vectors.shape[1]) for p in prompts[first : first + _PICTURES_AT_ONCE]
            ]
            some = seeds[first : first + _PICTURES_AT_ONCE]
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in some]
            with torch.inference_mode(), self.engine.family.holding({self.encoder: vectors}):
                drawn: Any = self.engine.pipe(
                    texts, generator=generators, num_inference_steps=STEPS, guidance_scale=GUIDANCE
                )
            made += drawn.images
        return made


def _noise(seed: int, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


def weights_id() -> str:
    """Return a short name of the bundled weights, pipeline and CLIP together."""
    digest = hashlib.sha256()
    for path in sorted(WEIGHTS_DIR.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class PeakMemory:
    """The most memory held since `reset`, over what was held then, in bytes; Linux only, elsewhere None."""

    def __init__(self) -> None:
        self._before: int | None = None

    def reset(self) -> None:
        """Start measuring."""
        try:
            reset_peak()
            self._before = memory("VmRSS")
        except (OSError, AttributeError):
            self._before = None

    def read(self) -> int | None:
        """Return the peak above the start."""
        return None if self._before is None else max(0, memory("VmHWM") - self._before)
