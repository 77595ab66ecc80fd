"""Transformers trained by flow matching: Stable Diffusion 3 and FLUX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, StableDiffusion3Pipeline
from torch import Tensor

from server_stub.families.base import Conditioning, Family, training_index
from server_stub.text_encoder import TextEncoder

__all__ = ["FlowMatchingFamily", "Flux", "StableDiffusion3"]

_SD3_T5_LENGTH: Final = 256
_FLUX_T5_LENGTH: Final = 512
_FLUX_GUIDANCE: Final = 3.5


class FlowMatchingFamily(Family):
    """Rectified flow (arXiv 2209.03003): noisy = (1 - sigma) x + sigma noise, the target is noise - x.

    sigma follows the model's own training schedule, with its constant shift (arXiv 2403.03206) where it has one;
    timesteps are 1000 sigma.
    """

    def __init__(self, pipe: Any, resolution: int | None = None, device: torch.device | None = None) -> None:
        super().__init__(pipe, resolution, device)
        self.prediction_type = "flow_prediction"
        schedule: Any = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
        self._sigmas: Tensor = (schedule.timesteps / schedule.config.num_train_timesteps).flip(0)
        self._num_train_timesteps = int(schedule.config.num_train_timesteps)

    @property
    def denoiser(self) -> Any:
        """The transformer."""
        return self.pipe.transformer

    def diffuse(self, latents: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return noisy latents, velocities and timesteps."""
        sigma = self._sigmas[training_index(t, self._num_train_timesteps)].to(latents.device)
        weight = sigma.reshape(-1, *[1] * (latents.ndim - 1))
        return (1 - weight) * latents + weight * noise, noise - latents, sigma * self._num_train_timesteps


class StableDiffusion3(FlowMatchingFamily):
    """Stable Diffusion 3 and 3.5: two CLIP text encoders, and T5 where the model has it."""

    pipeline_class = StableDiffusion3Pipeline

    def __init__(self, pipe: Any, resolution: int | None = None, device: torch.device | None = None) -> None:
        super().__init__(pipe, resolution, device)
        self.name = "stable-diffusion-3"
        length = pipe.tokenizer_max_length
        self.encoders = [
            TextEncoder("text_encoder", pipe.text_encoder, pipe.tokenizer, max_length=length),
            TextEncoder("text_encoder_2", pipe.text_encoder_2, pipe.tokenizer_2, max_length=length),
        ]
        if pipe.text_encoder_3 is not None:
            t5 = TextEncoder("text_encoder_3", pipe.text_encoder_3, pipe.tokenizer_3, max_length=_SD3_T5_LENGTH)
            self.encoders.append(t5)

    def encode_text(self, ids: Mapping[str, Tensor]) -> Conditioning:
        """Return `states` (n, L + 256, D), CLIP's padded with zeros to T5's width, and `pooled` (n, P + P2)."""
        pipe = self.pipe
        first = pipe.text_encoder(ids["text_encoder"], output_hidden_states=True)
        second = pipe.text_encoder_2(ids["text_encoder_2"], output_hidden_states=True)
        clip = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        if pipe.text_encoder_3 is not None:
            t5 = pipe.text_encoder_3(ids["text_encoder_3"])[0]
        else:
            t5 = clip.new_zeros(len(clip), _SD3_T5_LENGTH, pipe.transformer.config.joint_attention_dim)
        states = torch.cat([F.pad(clip, (0, t5.shape[-1] - clip.shape[-1])), t5], dim=-2)
        return {"states": states, "pooled": torch.cat([first[0], second[0]], dim=-1)}

    def denoise(self, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the transformer's velocity."""
        transformer = self.pipe.transformer
        prediction: Tensor = transformer(
            hidden_states=noisy.to(transformer.dtype),
            timestep=timestep,
            encoder_hidden_states=conditioning["states"],
            pooled_projections=conditioning["pooled"],
            return_dict=False,
        )[0]
        return prediction


class Flux(FlowMatchingFamily):
    """FLUX.1: pooled CLIP and T5. Losses of guidance-distilled models are taken at guidance 3.5, the pipeline's own."""

    pipeline_class = FluxPipeline

    def __init__(self, pipe: Any, resolution: int | None = None, device: torch.device | None = None) -> None:
        super().__init__(pipe, resolution, device)
        self.name = "flux"
        length = pipe.tokenizer_max_length
        self.encoders = [
            TextEncoder("text_encoder", pipe.text_encoder, pipe.tokenizer, max_length=length),
            TextEncoder("text_encoder_2", pipe.text_encoder_2, pipe.tokenizer_2, max_length=_FLUX_T5_LENGTH),
        ]

    def encode_text(self, ids: Mapping[str, Tensor]) -> Conditioning:
        """Return T5's `states` (n, 512, D) and CLIP's `pooled` (n, P)."""
        return {
            "states": self.pipe.text_encoder_2(ids["text_encoder_2"])[0],
            "pooled": self.pipe.text_encoder(ids["text_encoder"]).pooler_output,
        }

    def denoise(self, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the transformer's velocity; it sees latents as rows of 2x2 patches."""
        transformer = self.pipe.transformer
        n, channels, height, width = noisy.shape
        patches = noisy.to(transformer.dtype).reshape(n, channels, height // 2, 2, width // 2, 2)
        packed = patches.permute(0, 2, 4, 1, 3, 5).reshape(n, height // 2 * (width // 2), channels * 4)
        guided = transformer.config.guidance_embeds
        prediction: Tensor = transformer(
            hidden_states=packed,
            timestep=timestep / self._num_train_timesteps,
            guidance=torch.full((n,), _FLUX_GUIDANCE, device=noisy.device) if guided else None,
            encoder_hidden_states=conditioning["states"],
            pooled_projections=conditioning["pooled"],
            txt_ids=packed.new_zeros(conditioning["states"].shape[1], 3),
            img_ids=_positions(height // 2, width // 2).to(packed),
            return_dict=False,
        )[0]
        rows = prediction.reshape(n, height // 2, width // 2, channels, 2, 2)
        return rows.permute(0, 3, 1, 4, 2, 5).reshape(n, channels, height, width)

    def pipeline_prompts(self, prompt: str, negative: str, placeholder: str, vectors: int) -> dict[str, str | None]:
        """Return the prompts alone: guidance is distilled into the model, which has no negative prompt."""
        arguments = super().pipeline_prompts(prompt, negative, placeholder, vectors)
        return {key: value for key, value in arguments.items() if not key.startswith("negative")}


def _positions(height: int, width: int) -> Tensor:
    """Return the positions (height * width, 3) of patches: 0, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
