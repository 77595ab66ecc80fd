"""How well the bundled model sees and draws: `python -m tests.benchmarks.tiny_model [--grid FILE]`.

The small CLIP names shape, colour and pattern of fresh renders; the pipeline draws from captions that training never
saw, and the CLIP names what it drew. Prints the machine, the versions and the seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from blackbox_ti.clip import Clip
from blackbox_ti.sheet import contact_sheet
from server_stub.tiny import CLIP_DIR, PIPELINE_DIR
from server_stub.tiny.naming import Namer
from server_stub.tiny.world import Scene, full_caption, held_out_combinations, random_scene, render
from tests.benchmarks.machine import machine

__all__ = ["main"]

ATTRIBUTES = ("shape", "colour", "pattern")
SEED = 20_000_003
STEPS, GUIDANCE = 25, 5.0


def scenes_of(kind: str, count: int) -> list[Scene]:
    """Draw scenes of combinations trained on (`fresh`) or never (`held out`)."""
    rng = np.random.default_rng([SEED, len(kind)])
    held = sorted(held_out_combinations())
    pick = (lambda: held[int(rng.integers(len(held)))]) if kind == "held out" else (lambda: None)
    return [random_scene(rng, combination=pick()) for _ in range(count)]


def accuracy(namer: Namer, images: Sequence[Image.Image], scenes: Sequence[Scene]) -> dict[str, float]:
    """Share named right, an attribute."""
    named = namer.name(images)
    pairs = list(zip(named, scenes, strict=True))
    return {a: float(np.mean([n[a] == getattr(s, a) for n, s in pairs])) for a in ATTRIBUTES}


def drawn(pipeline: Any, scenes: Sequence[Scene], batch: int = 20) -> list[Image.Image]:
    """Draw a picture of each scene's caption; picture i starts from seed i."""
    images: list[Image.Image] = []
    for start in range(0, len(scenes), batch):
        prompts = [full_caption(s) for s in scenes[start : start + batch]]
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(prompts))]
        images += pipeline(prompts, generator=generators, num_inference_steps=STEPS, guidance_scale=GUIDANCE).images
    return images


def main() -> None:
    """Measure and print."""
    from diffusers import StableDiffusionPipeline

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renders", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--grid", type=Path, help="write 32 of the pictures drawn from held-out captions here")
    args = parser.parse_args()
    started = time.monotonic()
    namer = Namer(Clip(CLIP_DIR))
    pipeline = StableDiffusionPipeline.from_pretrained(PIPELINE_DIR)
    pipeline.set_progress_bar_config(disable=True)
    result: dict[str, Any] = {"machine": machine(), "seed": SEED, "steps": STEPS, "guidance_scale": GUIDANCE}
    for kind in ("fresh", "held out"):
        scenes = scenes_of(kind, args.renders)
        renders = [Image.fromarray(render(s)) for s in scenes]
        result[f"renders, {kind}"] = accuracy(namer, renders, scenes)
        asked = scenes[: args.prompts]
        pictures = drawn(pipeline, asked)
        result[f"drawn from captions, {kind}"] = accuracy(namer, pictures, asked)
    if args.grid:
        rows = [("", pictures[i : i + 8]) for i in range(0, 32, 8)]
        contact_sheet(rows).save(args.grid)
    result["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
