"""Every stage at a ten-thousandth of its length, and what the export writes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from server_stub.tiny.train.stages import Run
from tests.server_stub.tiny import PICTURES


def test_every_stage_runs_and_the_export_loads_as_any_pipeline(work: Path, tmp_path: Path) -> None:
    """A few steps of each stage, then plain diffusers and open_clip load what was written."""
    import open_clip
    from diffusers import StableDiffusionPipeline

    run = Run(work, tmp_path, 0, "cpu", PICTURES, scale=1e-4)
    for stage in ("autoencoder", "towers", "eyes", "denoiser", "finish", "export"):
        getattr(run, stage)()
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    picture = pipeline("a red star", num_inference_steps=2, generator=generator).images[0]
    assert picture.size == (64, 64)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'clip'}")
    table = load_file(tmp_path / "pipeline/text_encoder/model.safetensors")
    key = next(k for k in table if k.endswith("token_embedding.weight"))
    assert torch.equal(model.state_dict()["token_embedding.weight"], table[key])
