"""The main job on the bundled model: real processes, real HTTP, and plain diffusers as the judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blackbox_ti.demo import DEMO_CONCEPT
from server_stub.tiny import PIPELINE_DIR
from server_stub.tiny.world import held_out_combinations


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The demo's summary as its stdout tells it, and its folder."""
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "blackbox_ti", "demo", "--json", "--out", str(out), "--max-forwards", "5000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), out


def test_the_demo_learns_and_tells(demo: tuple[dict[str, Any], Path]) -> None:
    """One JSON object with losses, CLIP-I, forwards, seconds and the embedding; the loss fell within the budget."""
    summary, out = demo
    assert summary["heldout_loss_after"] < summary["heldout_loss_before"]
    assert {"clip_i_before", "clip_i_after", "seconds"} <= summary.keys()
    assert 0 < summary["forwards"] <= 5000
    assert Path(summary["embedding"]).is_file()
    assert DEMO_CONCEPT in held_out_combinations()
    assert json.loads((out / "summary.json").read_text()) == summary


def test_the_demo_leaves_pictures(demo: tuple[dict[str, Any], Path]) -> None:
    """Five references, pictures before and after for three prompts, and a sheet of them all."""
    _, out = demo
    assert len(list((out / "references").glob("*.png"))) == 5
    assert len(list((out / "pictures").glob("before-*.png"))) == len(list((out / "pictures").glob("after-*.png"))) == 18
    with Image.open(out / "comparison.png") as sheet:
        assert sheet.size[0] > 600


def test_plain_diffusers_makes_the_same_pictures(demo: tuple[dict[str, Any], Path]) -> None:
    """The saved word, loaded by `load_textual_inversion`, draws what the server drew for the same seeds."""
    import torch
    from diffusers import StableDiffusionPipeline

    summary, out = demo
    pipeline = StableDiffusionPipeline.from_pretrained(PIPELINE_DIR)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion(summary["embedding"])
    for seed in (0, 3):
        generator = torch.Generator().manual_seed(seed)
        picture = pipeline("a photo of <sks>", generator=generator, num_inference_steps=25, guidance_scale=5.0).images[
            0
        ]
        with Image.open(out / "pictures" / f"after-prompt0-seed{seed}.png") as served:
            assert np.abs(np.asarray(picture, dtype=int) - np.asarray(served, dtype=int)).max() <= 1
