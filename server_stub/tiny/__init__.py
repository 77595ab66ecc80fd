"""The bundled model: a small Stable-Diffusion-shaped pipeline and a small CLIP, trained on pictures we render."""

from pathlib import Path

__all__ = ["CLIP_DIR", "PIPELINE_DIR", "WEIGHTS_DIR"]

WEIGHTS_DIR = Path(__file__).parent / "weights"
PIPELINE_DIR = WEIGHTS_DIR / "pipeline"
CLIP_DIR = WEIGHTS_DIR / "clip"
