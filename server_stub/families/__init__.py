"""Model families: what differs between diffusers pipelines, one small class each."""

from __future__ import annotations

from server_stub.families.base import Conditioning, Family
from server_stub.families.flow_matching import Flux, StableDiffusion3
from server_stub.families.stable_diffusion import StableDiffusion
from server_stub.families.stable_diffusion_xl import StableDiffusionXL

__all__ = ["FAMILIES", "Conditioning", "Family"]

_SERVED: tuple[type[Family], ...] = (StableDiffusion, StableDiffusionXL, StableDiffusion3, Flux)
FAMILIES: dict[str, type[Family]] = {family.pipeline_class.__name__: family for family in _SERVED}
