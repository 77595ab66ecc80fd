"""What is XL's own: the refiner, and an autoencoder that overflows in float16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from blackbox_ti.errors import InputError
from server_stub.families.stable_diffusion_xl import StableDiffusionXL
from tests.server_stub.tiny_models import save_stable_diffusion_xl


def test_a_refiner_is_refused(tmp_path: Path) -> None:
    """It has no first text encoder, so that a word of two would not fit it."""
    pipe = StableDiffusionXLPipeline.from_pretrained(save_stable_diffusion_xl(tmp_path))
    pipe.text_encoder = None
    with pytest.raises(InputError, match="base model"):
        StableDiffusionXL(pipe)


def test_a_half_precision_autoencoder_encodes_in_full_and_stays_half(tmp_path: Path) -> None:
    """The latent is float32's of the same weights, to the bit; afterwards the weights are float16 again."""
    pipe = StableDiffusionXLPipeline.from_pretrained(save_stable_diffusion_xl(tmp_path))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    family = StableDiffusionXL(pipe, 16)
    pipe.vae.to(torch.float16).register_to_config(force_upcast=True)
    with torch.no_grad():
        upcast = family.encode_image(picture)
        assert pipe.vae.dtype == torch.float16
        pipe.vae.to(torch.float32)
        assert torch.equal(upcast, family.encode_image(picture))
