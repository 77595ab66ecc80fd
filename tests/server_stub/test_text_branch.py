"""What a denoiser makes of the text alone: found by running it, run once a text, and never seen in a loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from server_stub.diffusers_engine import DiffusersEngine
from server_stub.loss_work import TEXT_BATCH
from server_stub.placement import Placement
from server_stub.text_branch import TextBranch
from server_stub.warm_up import share
from tests.server_stub.sharing import RoundingEngine, job_of, plain_losses
from tests.server_stub.tiny_models import (
    save_flux,
    save_stable_diffusion,
    save_stable_diffusion_3,
    save_stable_diffusion_xl,
)


@pytest.fixture(scope="module", name="engine")
def _engine(tmp_path_factory: pytest.TempPathFactory) -> DiffusersEngine:
    return DiffusersEngine.load(save_stable_diffusion(tmp_path_factory.mktemp("sd")), device="cpu", micro_batch=4)


@pytest.mark.parametrize(
    ("save", "named"),
    [
        (save_stable_diffusion, {"to_k", "to_v"}),
        (save_stable_diffusion_xl, {"to_k", "to_v"}),
        (save_stable_diffusion_3, {"context_embedder", "linear_1"}),
        (save_flux, {"context_embedder", "linear_1"}),
    ],
)
def test_families_share_what_they_make_of_the_text(
    save: Callable[[Path], Path], named: set[str], tmp_path: Path
) -> None:
    """A UNet's keys and values, a transformer's first projections; losses have the same bits without."""
    engine = DiffusersEngine.load(save(tmp_path), device="cpu", micro_batch=4)
    share(engine)
    assert engine.branch is not None
    names = {module: name.rpartition(".")[2] for name, module in engine.family.denoiser.named_modules()}
    assert {names[module] for module in engine.branch.modules} == named
    job = job_of(engine, 5, 3)
    assert np.array_equal(engine.losses(job), plain_losses(engine, job))


def test_keys_and_values_are_made_once_a_text(engine: DiffusersEngine) -> None:
    """Six candidates on eight samples of one prompt: two passes of four texts, not twelve of four rows."""
    share(engine)
    assert engine.branch is not None
    layer, rows = engine.branch.modules[0], list[int]()

    class _Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows.append(len(x))
            made: Tensor = layer(x)
            return made

    engine.branch = TextBranch([_Counted(), *engine.branch.modules[1:]], engine.branch.keys)
    engine.losses(job_of(engine, 6, 8))
    assert rows == [TEXT_BATCH, TEXT_BATCH]


class _Reader(nn.Module):
    """Reads a text by a layer alone, by one that is called twice, and by one that also sees something else."""

    def __init__(self) -> None:
        super().__init__()
        self.alone, self.twice, self.both = nn.Linear(3, 3), nn.Linear(3, 3), nn.Bilinear(3, 3, 3)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Return (n, 3) of rows (n, 3) and texts (n, 3)."""
        out: Tensor = self.alone(text) + self.twice(text) * self.twice(x) + self.both(text, x)
        return out


@torch.inference_mode()
def test_only_what_reads_the_text_alone_and_once_is_shared() -> None:
    """Others would be given what they did not compute."""
    model, x, text = _Reader(), torch.randn(4, 3), torch.randn(4, 3)
    branch = TextBranch.of(model, lambda: model(x, text), {"states": text, "other": x})
    assert branch is not None
    assert list(branch.modules) == [model.alone]
    assert list(branch.keys) == ["states"]
    expected, kept = model(x, text), branch.with_outputs({"states": text})
    with branch.given(kept):
        assert torch.equal(model(x, text), expected)
        assert torch.equal(model.alone(x), kept["text branch 0"])
    assert TextBranch.of(model, lambda: model(x, text), {"states": text.clone()}) is None


def test_a_branch_that_changes_losses_is_not_shared(tmp_path: Path) -> None:
    """Warm-up compares, and goes without."""
    engine = RoundingEngine.load(save_stable_diffusion(tmp_path), device="cpu", micro_batch=4)
    engine.warm_up()
    assert engine.branch is None


def test_a_denoiser_that_comes_and_goes_shares_nothing(engine: DiffusersEngine) -> None:
    """Under --offload its weights are elsewhere while texts are encoded."""
    kept, engine.placement = engine.placement, Placement(device="cpu", offload=True)
    try:
        share(engine)
        assert engine.branch is None
    finally:
        engine.placement = kept
