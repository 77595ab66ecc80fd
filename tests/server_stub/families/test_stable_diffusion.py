"""Stable Diffusion's noise: DDPM's forward process and its two targets, against their formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from blackbox_ti.errors import InputError
from server_stub.families.stable_diffusion import StableDiffusion
from tests.server_stub.tiny_models import BETAS, save_stable_diffusion


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noise_and_targets_are_those_of_the_papers(tmp_path: Path, prediction_type: str) -> None:
    """x_t = sqrt(a) x + sqrt(1 - a) e; the target is e, or v = sqrt(a) e - sqrt(1 - a) x."""
    pipe = StableDiffusionPipeline.from_pretrained(save_stable_diffusion(tmp_path, prediction_type=prediction_type))
    family = StableDiffusion(pipe)
    x, e = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0)).unbind(0)
    t = torch.tensor([0.0004, 0.5, 0.9996], dtype=torch.float64)
    noisy, target, timestep = family.diffuse(x, e, t)
    betas = torch.linspace(BETAS["beta_start"] ** 0.5, BETAS["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
    a = torch.cumprod(1 - betas, 0)[[0, 500, 999]].reshape(3, 1, 1, 1)
    assert timestep.tolist() == [0, 500, 999]
    torch.testing.assert_close(noisy.double(), a.sqrt() * x + (1 - a).sqrt() * e, rtol=1e-4, atol=1e-5)
    velocity = a.sqrt() * e - (1 - a).sqrt() * x
    expected = e.double() if prediction_type == "epsilon" else velocity
    torch.testing.assert_close(target.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_target_not_known_here_is_refused(tmp_path: Path) -> None:
    """A model that predicts the picture itself would get wrong losses."""
    pipe = StableDiffusionPipeline.from_pretrained(save_stable_diffusion(tmp_path))
    pipe.scheduler = DDIMScheduler(**BETAS, prediction_type="sample")
    with pytest.raises(InputError, match="sample"):
        StableDiffusion(pipe)
