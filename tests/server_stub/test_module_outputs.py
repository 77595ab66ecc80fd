"""Hooks that leave nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from server_stub.module_outputs import EndOfPassError, answering, hearing, multiplies


class _Two(nn.Module):
    """Two layers, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 2) of rows (n, 2)."""
        out: Tensor = self.second(self.first(x))
        return out


def test_who_hears_may_end_the_pass() -> None:
    """The first layer is heard, the second never runs, and then nobody hears any more."""
    model = _Two()
    heard: list[tuple[nn.Module, torch.Size, torch.Size]] = []

    def hear(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        heard.append((module, inputs[0].shape, output.shape))
        raise EndOfPassError

    with hearing([model.first, model.second], hear):
        model(torch.zeros(3, 2))
    model(torch.zeros(3, 2))
    assert heard == [(model.first, (3, 2), (3, 2))]


def test_other_errors_are_not_swallowed() -> None:
    """A fault of the model's is told, and the hooks are gone as well."""
    model, heard = _Two(), list[None]()
    with pytest.raises(RuntimeError), hearing([model.first], lambda *_: heard.append(None)):
        model(torch.zeros(3, 5))
    model(torch.zeros(3, 2))
    assert not heard


def test_modules_answer_until_the_block_is_left() -> None:
    """Also where the block is left by an error, and a forward of the module's own comes back."""
    model, x, given = _Two(), torch.ones(3, 2), torch.full((3, 2), 7.0)
    own = model.second.forward
    model.second.forward = lambda input: own(input) + 1  # type: ignore[method-assign]  # noqa: A006
    expected = model(x)
    with answering([(model.first, given), (model.second, given)]):
        assert torch.equal(model(x), given)
    with pytest.raises(ZeroDivisionError), answering([(model.first, given)]):
        raise ZeroDivisionError
    assert torch.equal(model(x), expected)
    assert "forward" not in model.first.__dict__


def test_only_matrices_are_work() -> None:
    """A normalisation has weights too, and costs less than what would be kept of it."""
    assert multiplies(nn.Linear(2, 2))
    assert multiplies(nn.Sequential(nn.SiLU(), nn.Conv2d(1, 1, 1)))
    assert not multiplies(nn.GroupNorm(1, 2))
    assert not multiplies(nn.SiLU())
