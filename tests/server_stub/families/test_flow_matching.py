"""Rectified flow's straight lines, with each model's own shift of the schedule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline

from server_stub.families.flow_matching import Flux, StableDiffusion3
from tests.server_stub.tiny_models import save_flux, save_stable_diffusion_3


def _schnell(folder: Path) -> Path:
    return save_flux(folder, guidance_embeds=False)


@pytest.mark.parametrize(
    ("save", "pipeline", "family", "shift"),
    [
        (save_stable_diffusion_3, StableDiffusion3Pipeline, StableDiffusion3, 3.0),
        (save_flux, FluxPipeline, Flux, 1.0),
        (_schnell, FluxPipeline, Flux, 3.0),
    ],
)
def test_noise_lies_on_the_line_and_the_target_is_its_direction(
    tmp_path: Path, save: Callable[[Path], Path], pipeline: Any, family: Any, shift: float
) -> None:
    """Back along the target by sigma is the latent, on by the rest the noise; sigma is shifted where it should be."""
    served = family(pipeline.from_pretrained(save(tmp_path)))
    x, e = torch.randn(2, 4, 4, 2, 2, generator=torch.Generator().manual_seed(0)).unbind(0)
    t = torch.tensor([0.001, 0.25, 0.5, 0.9999], dtype=torch.float64)
    noisy, target, timestep = served.diffuse(x, e, t)
    sigma = (timestep / 1000).reshape(4, 1, 1, 1)
    torch.testing.assert_close(noisy - sigma * target, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(noisy + (1 - sigma) * target, e, rtol=0, atol=1e-5)
    share = (torch.tensor([1, 250, 500, 999]) + 1) / 1000
    torch.testing.assert_close(sigma.flatten(), shift * share / (1 + (shift - 1) * share), rtol=1e-4, atol=1e-5)
