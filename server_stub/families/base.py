"""What the engine asks of a model family, and what families share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, ClassVar, Final

import torch
from PIL import Image
from torch import Tensor

from blackbox_ti.errors import InputError
from server_stub.text_encoder import TextEncoder

__all__ = ["Conditioning", "Family"]

Conditioning = Mapping[str, Tensor]

_UNUSED: Final = ("safety_checker", "feature_extractor", "image_encoder")
_LIBRARIES: Final = {"diffusers", "transformers"}


class Family(ABC):
    """A diffusers pipeline seen as text encoders, a noise schedule, a denoiser and its training target.

    All tensors are batches; n is the batch's size and (C, h, w) the shape of a latent.
    """

    pipeline_class: ClassVar[Any]
    name: str
    prediction_type: str
    resolution: int
    encoders: list[TextEncoder]

    def __init__(self, pipe: Any, resolution: int | None = None, device: torch.device | None = None) -> None:
        """Serve `pipe` at `resolution` pixels, by default the model's own, on `device`, by default where it lies."""
        self.pipe = pipe
        self.device = device or torch.device(pipe.device)
        self.resolution = resolution or int(pipe.default_sample_size * pipe.vae_scale_factor)

    @classmethod
    def load(cls, path: str, index: Mapping[str, Any], **options: Any) -> Any:
        """Return the pipeline, by this family's own class, without its safety checker and parts it was saved without.

        `index` is the directory's `model_index.json`.

        Raises:
            InputError: the index names a part of another library, which loading would import.
        """
        parts = {key: value for key, value in index.items() if isinstance(value, list)}
        unused: dict[str, Any] = {key: None for key, value in parts.items() if key in _UNUSED or value[0] is None}
        foreign = {value[0] for key, value in parts.items() if key not in unused} - _LIBRARIES
        if foreign:
            raise InputError(
                f"the model has parts of {sorted(map(str, foreign))}; only diffusers and transformers load"
            )
        if "safety_checker" in index:
            unused["requires_safety_checker"] = False
        return cls.pipeline_class.from_pretrained(path, **unused, **options)

    @property
    @abstractmethod
    def denoiser(self) -> Any:
        """The module whose forward pass is counted."""

    def encode_image(self, image: Image.Image) -> Tensor:
        """Return the latent (1, C, h, w) float32 of a picture: the posterior's mode, shifted and scaled."""
        vae = self.pipe.vae
        pixels = self.pipe.image_processor.preprocess(image).to(self.device, vae.dtype)
        mode: Tensor = vae.encode(pixels).latent_dist.mode().float()
        shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
        return (mode - shift) * float(vae.config.scaling_factor)

    @abstractmethod
    def encode_text(self, ids: Mapping[str, Tensor]) -> Conditioning:
        """Return what the denoiser attends to, each (n, ...), for token ids (n, L) by encoder."""

    @abstractmethod
    def diffuse(self, latents: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return noisy latents, targets (n, C, h, w) and timesteps (n), for t (n) in (0, 1), float64 on the CPU."""

    @abstractmethod
    def denoise(self, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the denoiser's prediction (n, C, h, w) of the training target."""

    def holding(self, vectors: Mapping[str, Tensor]) -> ExitStack:
        """Let each encoder's reserved tokens stand for its vectors (n, T, D), or (1, T, D), until the stack is left."""
        stack = ExitStack()
        for encoder in self.encoders:
            stack.enter_context(encoder.holding(vectors[encoder.name]))
        return stack

    def pipeline_prompts(self, prompt: str, negative: str, placeholder: str, vectors: int) -> dict[str, str | None]:
        """Return the pipeline's prompt arguments, each substituted for its own encoder; no negative prompt is None."""
        arguments: dict[str, str | None] = {}
        for suffix, encoder in zip(("", "_2", "_3"), self.encoders, strict=False):
            arguments["prompt" + suffix] = encoder.substitute(prompt, placeholder, vectors)
            arguments["negative_prompt" + suffix] = encoder.substitute(negative, placeholder, vectors) or None
        return arguments


def training_index(t: Tensor, num_train_timesteps: int) -> Tensor:
    """Return the index of the training schedule's step at t in (0, 1), float64, as int64."""
    return (t * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)
