"""One training loop for every stage: fast copy, master weights, moving average, checkpoints without pickle."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["StageSettings", "Trainer"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageSettings:
    """How long and how fast one stage trains; `lr` is the peak of a one-cycle schedule."""

    steps: int
    batch: int
    lr: float
    ema: float = 0.999
    weight_decay: float = 0.01
    warmup: float = 0.05
    save_every: int = 250


def one_cycle(step: int, settings: StageSettings) -> float:
    """Return the learning rate at `step`: linear warm-up, cosine to a hundredth of the peak."""
    progress = step / settings.steps
    if progress < settings.warmup:
        return settings.lr * (0.04 + 0.96 * progress / settings.warmup)
    rest = (progress - settings.warmup) / (1 - settings.warmup)
    return settings.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * rest)))


class Trainer:
    """Trains `model` in `dtype` with float32 master weights; resumes from `path` when it exists."""

    def __init__(self, model: Any, settings: StageSettings, path: Path, *, device: str, dtype: torch.dtype) -> None:
        self.settings, self.path = settings, path
        self.model: Any = model.to(device)
        self.parameters: list[Tensor] = [p for p in self.model.parameters() if p.requires_grad]
        self.master = [p.detach().float().clone() for p in self.parameters]
        self.average = [p.clone() for p in self.master]
        for p in self.parameters:
            p.data = p.data.to(dtype)
        self.optimizer = torch.optim.AdamW(
            self.master, lr=settings.lr, weight_decay=settings.weight_decay, betas=(0.9, 0.99), fused=True
        )
        self.step = 0
        if path.exists():
            self._load()

    def run(self, loss_of_step: Callable[[int], Tensor]) -> None:
        """Train to the end of the stage; `loss_of_step(step)` returns a scalar loss."""
        started, first, shown = time.monotonic(), self.step, 0.0
        while self.step < self.settings.steps:
            loss = loss_of_step(self.step)
            torch.autograd.backward(loss)
            self._update()
            shown = loss.item() if not shown else 0.98 * shown + 0.02 * loss.item()
            if self.step % 50 == 0:
                rate = (time.monotonic() - started) / (self.step - first)
                left = rate * (self.settings.steps - self.step) / 60
                log.info("%s %d/%d loss %.4f %.3f s/step %.0f min left", self.path.stem, self.step, self.settings.steps,
                         shown, rate, left)  # fmt: skip
            if self.step % self.settings.save_every == 0 or self.step == self.settings.steps:
                self._save()

    def _update(self) -> None:
        for master, p in zip(self.master, self.parameters, strict=True):
            master.grad = p.grad.float() if p.grad is not None else torch.zeros_like(master)
            p.grad = None
        torch.nn.utils.clip_grad_norm_(self.master, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = one_cycle(self.step, self.settings)
        self.optimizer.step()
        self.step += 1
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, self.master, 1 - decay)
        with torch.no_grad():
            torch._foreach_copy_([p.data for p in self.parameters], self.master)

    def averaged(self) -> Any:
        """Return the model itself, in float32, carrying the moving average of its weights."""
        for p, average in zip(self.parameters, self.average, strict=True):
            p.data = average.clone()
        return self.model.float().eval()

    def _save(self) -> None:
        state = self.optimizer.state
        tensors = {"step": torch.tensor(self.step)}
        for i, (master, average) in enumerate(zip(self.master, self.average, strict=True)):
            tensors |= {f"{i}.master": master.detach(), f"{i}.average": average}
            tensors |= {f"{i}.{k}": torch.as_tensor(v) for k, v in state[master].items()}
        tensors |= {f"buffer.{k}": v for k, v in self.model.named_buffers()}
        partial = self.path.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial)
        partial.replace(self.path)

    def _load(self) -> None:
        tensors = load_file(self.path, device=str(self.master[0].device))
        self.step = int(tensors["step"])
        for i, master in enumerate(self.master):
            master.data.copy_(tensors[f"{i}.master"])
            self.average[i].copy_(tensors[f"{i}.average"])
            self.parameters[i].data.copy_(master)
            self.optimizer.state[master] = {
                k.split(".")[1]: v
                for k, v in tensors.items()
                if k.startswith(f"{i}.") and k.count("exp_avg") + k.count("step")
            }
        for name, buffer in self.model.named_buffers():
            buffer.copy_(tensors[f"buffer.{name}"])
        log.info("%s resumed at step %d", self.path.stem, self.step)
