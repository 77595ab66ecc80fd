"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet, epsilon or v-prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor

from blackbox_ti.errors import InputError
from server_stub.families.base import Conditioning, Family, training_index
from server_stub.text_encoder import TextEncoder

__all__ = ["StableDiffusion", "UNetFamily"]


class UNetFamily(Family):
    """A UNet trained on the discrete schedule of DDPM (arXiv 2006.11239), whatever sampler it ships with."""

    def __init__(self, pipe: Any, resolution: int | None = None, device: torch.device | None = None) -> None:
        super().__init__(pipe, resolution, device)
        self.prediction_type = pipe.scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise InputError(f"a model with prediction type {self.prediction_type!r} is not served; use another model")
        self.schedule: Any = DDPMScheduler.from_config(pipe.scheduler.config)
        self.schedule.alphas_cumprod = self.schedule.alphas_cumprod.to(self.device)

    @property
    def denoiser(self) -> Any:
        """The UNet."""
        return self.pipe.unet

    def diffuse(self, latents: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return noisy latents, the noise or the velocity (arXiv 2202.00512), and timesteps."""
        timestep = training_index(t, self.schedule.config.num_train_timesteps).to(latents.device)
        noisy = self.schedule.add_noise(latents, noise, timestep)
        if self.prediction_type == "epsilon":
            return noisy, noise, timestep
        return noisy, self.schedule.get_velocity(latents, noise, timestep), timestep


class StableDiffusion(UNetFamily):
    """Stable Diffusion 1.x and 2.x."""

    pipeline_class = StableDiffusionPipeline

    def __init__(self, pipe: Any, resolution: int | None = None, device: torch.device | None = None) -> None:
        default = int(pipe.unet.config.sample_size * pipe.vae_scale_factor)
        super().__init__(pipe, resolution or default, device)
        self.name = "stable-diffusion"
        self.encoders = [TextEncoder("text_encoder", pipe.text_encoder, pipe.tokenizer)]

    def encode_text(self, ids: Mapping[str, Tensor]) -> Conditioning:
        """Return the last hidden states (n, L, D)."""
        return {"states": self.pipe.text_encoder(ids["text_encoder"])[0]}

    def denoise(self, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the UNet's prediction."""
        unet = self.pipe.unet
        prediction: Tensor = unet(noisy.to(unet.dtype), timestep, conditioning["states"], return_dict=False)[0]
        return prediction
