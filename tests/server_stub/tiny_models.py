"""Architecture-faithful models of a few thousand weights, saved as diffusers directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

__all__ = ["CONTEXT", "WORDS", "clip_tokenizer", "save_stable_diffusion"]

CONTEXT = 16
WORDS = ("a", "photo", "of", "red", "dog", "on", "blue", "sketch")
WIDTH = 16
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def clip_tokenizer(folder: Path, *, pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """Return a byte-level CLIP tokenizer in which each of WORDS is one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = None
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in merges))
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=CONTEXT, pad_token=pad_token)
    return tokenizer


def clip_config(tokenizer: CLIPTokenizer, **overrides: Any) -> CLIPTextConfig:
    """Return the configuration of a two-layer CLIP text encoder for `tokenizer`."""
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextConfig(**settings | overrides)


def autoencoder(**overrides: Any) -> AutoencoderKL:
    """Return an autoencoder that halves height and width once."""
    settings: dict[str, Any] = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 16,
        "scaling_factor": 0.37,
    }
    return AutoencoderKL(**settings | overrides)


def unet(**overrides: Any) -> UNet2DConditionModel:
    """Return a UNet on 8x8 latents."""
    settings: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**settings | overrides)


def save_stable_diffusion(folder: Path, *, prediction_type: str = "epsilon") -> Path:
    """Save a Stable Diffusion 1.x (epsilon, PNDM) or 2.x (v-prediction, DDIM, padded with `!`) pipeline."""
    torch.manual_seed(0)
    first = prediction_type == "epsilon"
    tokenizer = clip_tokenizer(folder / "words", pad_token="<|endoftext|>" if first else "!")
    config = clip_config(tokenizer, hidden_act="quick_gelu" if first else "gelu")
    betas = BETAS | {"prediction_type": prediction_type}
    scheduler = PNDMScheduler(skip_prk_steps=True, **betas) if first else DDIMScheduler(clip_sample=False, **betas)
    pipe: Any = StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(config),
        tokenizer=tokenizer,
        unet=unet(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder / "model")
    return folder / "model"
