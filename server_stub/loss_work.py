"""A loss job on its way through the denoiser: which row needs what, encoded when its turn comes.

Rows are ordered by (candidate, prompt), so that each distinct text is encoded once, shortly before its rows are
scored, and let go after them: memory does not grow with the number of candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blackbox_ti.wire import Sample
from server_stub.engine import LossJob
from server_stub.families import Conditioning, Family
from server_stub.text_branch import TextBranch

__all__ = ["TEXT_BATCH", "Inputs", "LossWork", "pad"]

TEXT_BATCH: Final = 4


@dataclass(frozen=True)
class Inputs:
    """Rows for the denoiser, each tensor (n, ...)."""

    noisy: Tensor
    target: Tensor
    timestep: Tensor
    conditioning: Conditioning


class LossWork:
    """The rows of a loss job of B candidates and n samples, and the losses of those scored.

    Text i is that of candidate i // P under the i % P-th of the P prompts its samples name; row i scores sample
    `sample[i]` under text `text[i]`, and its loss goes to place `place[i]` of (B * n). Texts are encoded in up to
    `ahead` passes at a time, for encoders that are not always at hand. `branch` adds to the conditioning what the
    denoiser makes of it alone. `noisy` and `timestep` (n, ...) are the samples'.
    """

    def __init__(
        self, family: Family, job: LossJob, device: torch.device, *, ahead: int = 1, branch: TextBranch | None = None
    ) -> None:
        self._family = family
        self._device = device
        self._shape = (len(next(iter(job.embeddings.values()))), len(job.samples))
        self.rows = self._shape[0] * self._shape[1]
        named = sorted({sample.prompt for sample in job.samples})
        self._order(np.array([named.index(sample.prompt) for sample in job.samples], np.int64), len(named))
        self._texts = _Texts(family, job, [job.prompts[i] for i in named], device, ahead, branch)
        self.noisy, self._target, self.timestep = _diffuse(family, job.latents, job.samples, device)
        self._losses = torch.full((self.rows,), torch.nan, device=device)

    def _order(self, prompt: NDArray[np.int64], prompts: int) -> None:
        candidates, samples = self._shape
        text = (np.arange(candidates)[:, None] * prompts + prompt[None, :]).reshape(-1)
        place = np.argsort(text, kind="stable")
        self._text = text[place]
        self._place = torch.from_numpy(place).to(self._device)
        self._sample = torch.from_numpy(place % max(samples, 1)).to(self._device)

    def samples(self, start: int, stop: int) -> Tensor:
        """Return the samples (m) of rows `start` to `stop`, places in `noisy` and `timestep`."""
        return self._sample[start:stop]

    def inputs(self, start: int, stop: int) -> Inputs:
        """Return what the denoiser needs for rows `start` to `stop`."""
        sample = self.samples(start, stop)
        return Inputs(
            noisy=self.noisy[sample],
            target=self._target[sample],
            timestep=self.timestep[sample],
            conditioning=self._texts.take(self._text[start:stop]),
        )

    def keep(self, start: int, losses: Tensor) -> None:
        """File the losses (m) of the rows from `start` on."""
        self._losses[self._place[start : start + len(losses)]] = losses

    def result(self) -> NDArray[np.float32]:
        """Return the losses (B, n) float32, NaN where a row was not scored."""
        return self._losses.cpu().numpy().reshape(self._shape)


class _Texts:
    """The texts of a job, encoded in passes of TEXT_BATCH as they are asked for, in order, `ahead` passes at once."""

    def __init__(
        self,
        family: Family,
        job: LossJob,
        prompts: Sequence[str],
        device: torch.device,
        ahead: int,
        branch: TextBranch | None,
    ) -> None:
        self._family = family
        self._branch = branch
        self._ahead = ahead
        self._prompts = len(prompts)
        self._vectors: dict[str, Tensor] = {}
        self._ids: dict[str, Tensor] = {}
        for encoder in family.encoders:
            embeddings = torch.tensor(np.ascontiguousarray(job.embeddings[encoder.name], np.float32))
            texts = [encoder.substitute(p, job.placeholder_token, embeddings.shape[1]) for p in prompts]
            self._ids[encoder.name] = encoder.tokenize(texts).to(device)
            self._vectors[encoder.name] = embeddings.to(device)
        self._count = len(next(iter(self._vectors.values()))) * len(prompts)
        self._passes: dict[int, Conditioning] = {}

    def take(self, texts: NDArray[np.int64]) -> Conditioning:
        """Return the conditioning of texts by their numbers, ascending and never below those asked for before."""
        first, last = int(texts[0]) // TEXT_BATCH, int(texts[-1]) // TEXT_BATCH
        self._passes = {i: encoded for i, encoded in self._passes.items() if i >= first}
        if last not in self._passes:
            stop = min(last + self._ahead, -(-self._count // TEXT_BATCH))
            self._passes |= {i: self._encode(i) for i in range(first + len(self._passes), stop)}
        offsets = torch.from_numpy(texts - first * TEXT_BATCH)
        return {key: self._joined(key, last)[offsets.to(value.device)] for key, value in self._passes[first].items()}

    def _joined(self, key: str, last: int) -> Tensor:
        parts = [conditioning[key] for i, conditioning in self._passes.items() if i <= last]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _encode(self, number: int) -> Conditioning:
        """Encode one pass; its last texts are repeated where there are too few."""
        start = number * TEXT_BATCH
        text = torch.arange(start, start + TEXT_BATCH).clamp(max=self._count - 1)
        vectors = _pick(self._vectors, text // self._prompts)
        with self._family.holding(vectors):
            conditioning = self._family.encode_text(_pick(self._ids, text % self._prompts))
        return self._branch.with_outputs(conditioning) if self._branch else conditioning


def _pick(tensors: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    return {name: tensor[index.to(tensor.device)] for name, tensor in tensors.items()}


def _diffuse(
    family: Family, latents: NDArray[np.float32], samples: Sequence[Sample], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return noisy latents, targets and timesteps of samples, their noise drawn on the CPU: the same on any device."""
    images = torch.tensor(np.ascontiguousarray(latents[[sample.image for sample in samples]], np.float32))
    noise = torch.stack([_noise(sample.seed, images.shape[1:]) for sample in samples])
    t = torch.tensor([sample.t for sample in samples], dtype=torch.float64)
    return family.diffuse(images.to(device), noise.to(device), t)


def _noise(seed: int, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


def pad(parts: Sequence[Tensor], size: int) -> Tensor:
    """Return tensors (m, ...) as one (size, ...), filled up with copies of the first row.

    The result is contiguous, whatever the parts are: kernels are chosen by strides too.

    Raises:
        ValueError: there are more than `size` rows.
    """
    count = sum(len(part) for part in parts)
    if count > size:
        raise ValueError(f"{count} rows do not fit into a batch of {size}")
    first = parts[0][:1]
    filled = [*parts, first.expand(size - count, *first.shape[1:])] if count < size else parts
    return (torch.cat(list(filled)) if len(filled) > 1 else filled[0]).contiguous()
