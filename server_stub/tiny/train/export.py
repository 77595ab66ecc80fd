"""Writes the finished model: a diffusers pipeline, and the CLIP whose text tower is the pipeline's text encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers import StableDiffusionPipeline
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from server_stub.tiny.train.denoiser import build_scheduler
from server_stub.tiny.train.tokenizer import CONTEXT_LENGTH, build_tokenizer
from server_stub.tiny.train.towers import clip_config

if TYPE_CHECKING:
    from server_stub.tiny.train.stages import Run

__all__ = ["export", "text_encoder_of"]


def text_encoder_of(clip: CLIP, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return the CLIP's text tower as transformers' CLIPTextModel, the same numbers under other names."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = CLIPTextModel(config)
    state = _renamed(clip.state_dict())
    own = model.state_dict()
    prefix = "text_model." if any(k.startswith("text_model.") for k in own) else ""
    renamed = {prefix + k: v for k, v in state.items()}
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert not unexpected, unexpected
    assert not [k for k in missing if "position_ids" not in k], missing
    finished: CLIPTextModel = model.float().eval()
    return finished


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names of the text tower to transformers'; the fused projection is cut in three."""
    out = {
        "embeddings.token_embedding.weight": state["token_embedding.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
        "final_layer_norm.weight": state["ln_final.weight"],
        "final_layer_norm.bias": state["ln_final.bias"],
    }
    for i in range(2):
        old, new = f"transformer.resblocks.{i}.", f"encoder.layers.{i}."
        for kind in ("weight", "bias"):
            parts = state[f"{old}attn.in_proj_{kind}"].chunk(3)
            out |= {f"{new}self_attn.{n}_proj.{kind}": p for n, p in zip("qkv", parts, strict=True)}
            out[f"{new}self_attn.out_proj.{kind}"] = state[f"{old}attn.out_proj.{kind}"]
            out[f"{new}layer_norm1.{kind}"] = state[f"{old}ln_1.{kind}"]
            out[f"{new}layer_norm2.{kind}"] = state[f"{old}ln_2.{kind}"]
            out[f"{new}mlp.fc1.{kind}"] = state[f"{old}mlp.c_fc.{kind}"]
            out[f"{new}mlp.fc2.{kind}"] = state[f"{old}mlp.c_proj.{kind}"]
    return out


def _export_clip(clip: CLIP, tokenizer: CLIPTokenizer, directory: Path) -> None:
    build_tokenizer(directory)
    config = clip_config(len(tokenizer))
    config["text_cfg"]["hf_tokenizer_name"] = "."
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}
    described = {"model_cfg": config, "preprocess_cfg": preprocess}
    (directory / "open_clip_config.json").write_text(json.dumps(described, indent=2) + "\n")
    state = {k: v.half() if v.is_floating_point() else v for k, v in clip.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, directory / "open_clip_model.safetensors")


def export(run: Run) -> None:
    """Write `pipeline/` and `clip/` under the run's `out`."""
    clip, tokenizer = run.finished_clip().eval(), run.tokenizer
    denoiser = run.trained_denoiser()
    denoiser.set_default_attn_processor()
    pipeline: Any = StableDiffusionPipeline(
        vae=run.trained_autoencoder(),
        text_encoder=text_encoder_of(clip, tokenizer),
        tokenizer=tokenizer,
        unet=denoiser,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(run.out / "pipeline", safe_serialization=True)
    _export_clip(clip, tokenizer, run.out / "clip")
