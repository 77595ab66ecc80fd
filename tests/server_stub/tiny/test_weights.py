"""The bundled weights, as a user gets them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blackbox_ti.clip import Clip
from server_stub.tiny import CLIP_DIR, PIPELINE_DIR, WEIGHTS_DIR
from server_stub.tiny.naming import Namer
from server_stub.tiny.world import full_caption, random_scene, render


@pytest.fixture(scope="module")
def pipeline() -> Any:
    """The pipeline as plain diffusers loads it."""
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(PIPELINE_DIR)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_weights_are_small_and_safe() -> None:
    """At most 40 MB together, and every weight in safetensors."""
    files = [p for p in WEIGHTS_DIR.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 40_000_000
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".txt"}


def test_the_text_tower_is_the_pipelines_encoder(pipeline: Any) -> None:
    """The CLIP's text features, computed by transformers from the pipeline's encoder, are open_clip's."""
    import open_clip

    text = ["a photo of a red striped star on a blue background", "pixel art of a fish"]
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{CLIP_DIR}")
    tokens = open_clip.get_tokenizer(f"local-dir:{CLIP_DIR}")(text)
    with torch.no_grad():
        features = model.encode_text(tokens)
        states = pipeline.text_encoder(tokens).last_hidden_state
        ends = states[torch.arange(2), tokens.argmax(dim=-1)]
        assert torch.allclose(ends @ model.text_projection, features, atol=1e-4)


def test_clip_names_fresh_pictures() -> None:
    """Shape, colour and pattern of a few dozen fresh renders are named right almost always (the benchmark measures)."""
    rng = np.random.default_rng(77)
    scenes = [random_scene(rng) for _ in range(120)]
    named = Namer(Clip(CLIP_DIR)).name([Image.fromarray(render(s)) for s in scenes])
    for attribute in ("shape", "colour", "pattern"):
        right = np.mean([n[attribute] == getattr(s, attribute) for n, s in zip(named, scenes, strict=True)])
        assert right > 0.88, attribute


def test_the_pipeline_draws_what_it_is_told(pipeline: Any) -> None:
    """Pictures from captions are named as told more often than not, in every attribute (the benchmark measures)."""
    rng = np.random.default_rng(5)
    scenes = [random_scene(rng, style="photo") for _ in range(8)]
    generators = [torch.Generator().manual_seed(i) for i in range(8)]
    images = pipeline(
        [full_caption(s) for s in scenes], generator=generators, num_inference_steps=20, guidance_scale=4.0
    ).images
    named = Namer(Clip(CLIP_DIR)).name(images)
    for attribute in ("shape", "colour", "pattern"):
        assert sum(n[attribute] == getattr(s, attribute) for n, s in zip(named, scenes, strict=True)) >= 5, attribute
