"""Stable Diffusion XL: two CLIP text encoders, their penultimate states side by side, sizes as extra conditioning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor

from blackbox_ti.errors import InputError
from server_stub.families.base import Conditioning
from server_stub.families.stable_diffusion import UNetFamily
from server_stub.text_encoder import TextEncoder

__all__ = ["StableDiffusionXL"]


class StableDiffusionXL(UNetFamily):
    """Stable Diffusion XL (arXiv 2307.01952), told that pictures are whole and of the resolution they have."""

    pipeline_class = StableDiffusionXLPipeline

    def __init__(self, pipe: Any, resolution: int | None = None, device: torch.device | None = None) -> None:
        super().__init__(pipe, resolution, device)
        if pipe.text_encoder is None:
            raise InputError("a refiner has only one text encoder and is not served; use the base model")
        self.name = "stable-diffusion-xl"
        self.encoders = [
            TextEncoder("text_encoder", pipe.text_encoder, pipe.tokenizer),
            TextEncoder("text_encoder_2", pipe.text_encoder_2, pipe.tokenizer_2),
        ]
        sizes = [self.resolution, self.resolution, 0, 0, self.resolution, self.resolution]
        self._time_ids = torch.tensor([sizes], device=self.device, dtype=pipe.text_encoder_2.dtype)

    def encode_image(self, image: Image.Image) -> Tensor:
        """Return the latent, encoded in float32 where the autoencoder overflows in float16."""
        vae = self.pipe.vae
        if vae.dtype != torch.float16 or not vae.config.force_upcast:
            return super().encode_image(image)
        vae.to(torch.float32)
        try:
            return super().encode_image(image)
        finally:
            vae.to(torch.float16)

    def encode_text(self, ids: Mapping[str, Tensor]) -> Conditioning:
        """Return `states` (n, L, D + D2) and `pooled` (n, P), the second encoder's projection."""
        first = self.pipe.text_encoder(ids["text_encoder"], output_hidden_states=True)
        second = self.pipe.text_encoder_2(ids["text_encoder_2"], output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return {"states": states, "pooled": second[0]}

    def denoise(self, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the UNet's prediction."""
        unet = self.pipe.unet
        added = {"text_embeds": conditioning["pooled"], "time_ids": self._time_ids.expand(len(noisy), -1)}
        prediction: Tensor = unet(
            noisy.to(unet.dtype), timestep, conditioning["states"], added_cond_kwargs=added, return_dict=False
        )[0]
        return prediction
