"""Architecture-faithful models of a few thousand weights, saved as diffusers directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

__all__ = [
    "CONTEXT",
    "WIDTH",
    "WORDS",
    "save_flux",
    "save_stable_diffusion",
    "save_stable_diffusion_3",
    "save_stable_diffusion_xl",
]

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


def t5_tokenizer(**settings: Any) -> T5Tokenizer:
    """Return a T5 tokenizer in which each of WORDS, and each letter and sign, is a piece."""
    special: list[tuple[str, float]] = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces = [("▁" + word, -3.0) for word in WORDS if len(word) > 1] + [(chr(code), -6.0) for code in range(33, 127)]
    extra = [(f"<extra_id_{i}>", 0.0) for i in range(99, -1, -1)]
    return T5Tokenizer(vocab=special + pieces + extra, **settings)


def t5_encoder(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
    """Return a two-layer T5 encoder, its table longer than the vocabulary, as real ones are."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer) + 28,
            d_model=width,
            d_kv=8,
            d_ff=2 * width,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
        )
    )


def save_stable_diffusion_xl(folder: Path) -> Path:
    """Save a Stable Diffusion XL pipeline; its second encoder has the legacy end token id, as the real one has."""
    torch.manual_seed(1)
    first = clip_tokenizer(folder / "words")
    second = clip_tokenizer(folder / "words_2", pad_token="!")
    wide = {"hidden_size": 24, "num_attention_heads": 3, "projection_dim": 12, "hidden_act": "gelu", "eos_token_id": 2}
    pipe: Any = StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13),
        text_encoder=CLIPTextModel(clip_config(first, hidden_act="quick_gelu")),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(second, **wide)),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet(
            cross_attention_dim=WIDTH + 24,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 12,
            use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **BETAS),
        force_zeros_for_empty_prompt=True,
    )
    pipe.save_pretrained(folder / "model")
    return folder / "model"


def flow_autoencoder() -> AutoencoderKL:
    """Return an autoencoder with a shift and without the quantisation convolutions, as SD 3 and FLUX have."""
    return autoencoder(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False)


def save_stable_diffusion_3(folder: Path, *, t5: bool = True) -> Path:
    """Save a Stable Diffusion 3 pipeline, with T5 or without."""
    torch.manual_seed(2)
    first = clip_tokenizer(folder / "words")
    second = clip_tokenizer(folder / "words_2", pad_token="!")
    third = t5_tokenizer()
    pipe: Any = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=48,
            caption_projection_dim=16,
            pooled_projection_dim=20,
            pos_embed_max_size=12,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flow_autoencoder(),
        text_encoder=CLIPTextModelWithProjection(clip_config(first, projection_dim=8, eos_token_id=2)),
        tokenizer=first,
        text_encoder_2=CLIPTextModelWithProjection(
            clip_config(second, hidden_size=24, num_attention_heads=3, projection_dim=12, eos_token_id=2)
        ),
        tokenizer_2=second,
        text_encoder_3=t5_encoder(third, 48) if t5 else None,
        tokenizer_3=third if t5 else None,
    )
    pipe.save_pretrained(folder / "model")
    return folder / "model"


def save_flux(folder: Path, *, guidance_embeds: bool = True) -> Path:
    """Save a FLUX pipeline, guidance-distilled (dev) or not (schnell)."""
    torch.manual_seed(3)
    first, second = clip_tokenizer(folder / "words"), t5_tokenizer()
    pipe: Any = FluxPipeline(
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            pooled_projection_dim=WIDTH,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance_embeds),
        vae=flow_autoencoder(),
        text_encoder=CLIPTextModel(clip_config(first)),
        tokenizer=first,
        text_encoder_2=t5_encoder(second, 24),
        tokenizer_2=second,
    )
    pipe.save_pretrained(folder / "model")
    return folder / "model"
