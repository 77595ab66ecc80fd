"""The training loop, and its resumption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from server_stub.tiny.train.data import step_rng
from server_stub.tiny.train.loop import StageSettings, Trainer, one_cycle


def test_interrupted_training_ends_in_the_same_weights(tmp_path: Path) -> None:
    """Stopped and resumed, or in one go: the same bits."""
    settings = StageSettings(steps=6, batch=4, lr=0.01, save_every=3)

    def loss_of(trainer: Trainer, step: int) -> torch.Tensor:
        x = torch.from_numpy(step_rng(0, "s", step).standard_normal((4, 3)).astype(np.float32))
        loss: torch.Tensor = (trainer.model(x) - 1).square().mean()
        return loss

    def fresh(name: str) -> Trainer:
        torch.manual_seed(0)
        return Trainer(torch.nn.Linear(3, 2), settings, tmp_path / name, device="cpu", dtype=torch.float32)

    whole = fresh("whole.safetensors")
    whole.run(lambda step: loss_of(whole, step))
    first = fresh("parts.safetensors")

    def until_three(step: int) -> torch.Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return loss_of(first, step)

    with pytest.raises(KeyboardInterrupt):
        first.run(until_three)
    second = fresh("parts.safetensors")
    assert second.step == 3
    second.run(lambda step: loss_of(second, step))
    assert all(torch.equal(a, b) for a, b in zip(whole.average, second.average, strict=True))


def test_the_learning_rate_rises_then_falls() -> None:
    """One cycle: low at both ends, its peak after the warm-up."""
    settings = StageSettings(steps=100, batch=1, lr=1.0, warmup=0.1)
    rates = [one_cycle(step, settings) for step in range(101)]
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 10
    assert rates[0] < 0.1
    assert rates[-1] < 0.02
