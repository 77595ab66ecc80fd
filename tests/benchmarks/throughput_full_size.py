"""A model of Stable Diffusion 1.5's shape, built on the spot from random weights.

860M weights in the denoiser, CLIP ViT-L/14's text encoder, the autoencoder. Its losses mean nothing; its work is the
real one's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from server_stub.placement import DTYPES
from tests.server_stub.tiny_models import BETAS, clip_tokenizer

__all__ = ["full_size_parts", "full_size_pipeline"]

_SEED = 0
_CONTEXT = 77


def _filled(module: nn.Module, dtype: torch.dtype) -> Any:
    """Return a module made without memory, filled with small random weights of `dtype`."""
    generator = torch.Generator().manual_seed(_SEED)
    module = nn.Module.to(module, dtype).to_empty(device="cpu").requires_grad_(requires_grad=False).eval()
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 0
            drawn = torch.randn(tensor.shape, generator=generator) * fan_in**-0.5 if fan_in else torch.zeros(1)
            tensor.copy_(drawn if "norm" not in name or not name.endswith("weight") else torch.ones(1))
    for part in module.modules():
        if hasattr(part, "position_ids"):
            part.position_ids = torch.arange(_CONTEXT)[None]
    return module


def full_size_parts(tokenizer: CLIPTokenizer) -> dict[str, nn.Module]:
    """Return text encoder, denoiser and autoencoder, without memory for their weights."""
    config = CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=_CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.device("meta"):
        text_encoder = CLIPTextModel(config)
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=768,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )
    return {"text_encoder": text_encoder, "unet": unet, "vae": vae}


def full_size_pipeline(dtype: str = "float32") -> Any:
    """Return the pipeline, its tokenizer one of a few words (the table has the real one's 49,408 rows)."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = clip_tokenizer(Path(folder))
    tokenizer.model_max_length = _CONTEXT
    parts = {name: _filled(part, DTYPES[dtype]) for name, part in full_size_parts(tokenizer).items()}
    pipe: Any = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=PNDMScheduler(skip_prk_steps=True, **BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipe
