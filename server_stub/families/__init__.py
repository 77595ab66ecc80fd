"""Model families: what differs between diffusers pipelines, one small class each."""

from __future__ import annotations

from server_stub.families.base import Conditioning, Family
from server_stub.families.stable_diffusion import StableDiffusion

__all__ = ["FAMILIES", "Conditioning", "Family"]

FAMILIES: dict[str, type[Family]] = {"StableDiffusionPipeline": StableDiffusion}
