"""The denoiser: v-prediction on latents left near their natural variances, min-SNR weighting first and none at last."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from server_stub.tiny.train.autoencoder import LATENT_CHANNELS

__all__ = ["build_denoiser", "build_scheduler", "denoiser_loss"]

_MIN_SNR_GAMMA = 5.0


def build_denoiser() -> UNet2DConditionModel:
    """Return the untrained denoiser (4.4M parameters) over 16x16 latents, cross-attention of width 256."""
    model = UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=256,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    # The backward pass of fused attention on CPUs costs half a step here; plain matrix products do not.
    model.set_attn_processor(AttnProcessor())
    return model


def build_scheduler() -> DDIMScheduler:
    """Return the noise schedule of Stable Diffusion, for v-prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def denoiser_loss(
    model: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    latents: Tensor,
    text: Tensor,
    noise: Tensor,
    timestep: Tensor,
    *,
    weighted: bool = True,
) -> Tensor:
    """Return the v-prediction loss, weighted (min-SNR, arXiv 2303.09556, with gamma 5) or not.

    The weights make the beginning fast; but they leave next to nothing to the noisiest timesteps, where it is decided
    whether an object has dots or checks.
    """
    noisy = scheduler.add_noise(latents, noise, timestep)
    target = scheduler.get_velocity(latents, noise, timestep)
    predicted = model(noisy.to(model.dtype), timestep, text.to(model.dtype)).sample.float()
    alpha = scheduler.alphas_cumprod.to(latents.device)[timestep]
    snr = alpha / (1 - alpha)
    weight = snr.clamp(max=_MIN_SNR_GAMMA) / (snr + 1) if weighted else torch.ones_like(snr)
    loss: Tensor = (weight * (predicted - target).square().mean(dim=(1, 2, 3))).mean()
    return loss
