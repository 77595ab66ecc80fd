"""CLIP on the user's own machine, through open_clip: features of pictures and of words, at no cost to the endpoint.

Needs the `clip` extra; nothing here is imported until a CLIP is loaded.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.errors import InputError

__all__ = ["Clip", "clip_similarity"]

Array = NDArray[np.float32]
_BATCH = 64


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """open_clip reports its loading at INFO on the root logger."""
    root = logging.getLogger()
    level, root.level = root.level, logging.ERROR
    try:
        yield
    finally:
        root.level = level


class Clip:
    """A CLIP by `name`: a local open_clip directory, or an architecture with its weights as `ViT-L-14:openai`.

    Features are unit vectors, float32.
    """

    def __init__(self, name: str | Path, *, device: str = "cpu") -> None:
        try:
            import open_clip
            import torch
        except ImportError as error:
            raise InputError(
                "CLIP needs the clip extra: pip install 'blackbox-ti[clip]', or leave --clip out"
            ) from error
        self.torch: Any = torch
        self._device = device
        local = Path(name)
        arch, _, pretrained = (f"local-dir:{local}", "", "") if local.is_dir() else str(name).partition(":")
        try:
            with _quiet():
                model, _, preprocess = open_clip.create_model_and_transforms(arch, pretrained or None, device=device)
                self.tokenizer: Any = open_clip.get_tokenizer(arch)
        except (RuntimeError, OSError, ValueError) as error:
            raise InputError(f"cannot load the CLIP {name}: {error}; give a local directory or ARCH:WEIGHTS") from error
        self.model: Any = model.eval()
        self._preprocess: Any = preprocess

    def image_features(self, images: Sequence[Image.Image]) -> Array:
        """Return features (n, C) of RGB pictures."""
        pixels = self.torch.stack([self._preprocess(image) for image in images])
        return self._features(self.model.encode_image, pixels)

    def text_features(self, texts: Sequence[str]) -> Array:
        """Return features (n, C) of texts."""
        return self._features(self.model.encode_text, self.tokenizer(list(texts)))

    def _features(self, encode: Any, inputs: Any) -> Array:
        with self.torch.inference_mode():
            parts = [
                encode(inputs[i : i + _BATCH].to(self._device)).float().cpu() for i in range(0, len(inputs), _BATCH)
            ]
        features = self.torch.cat(parts).numpy()
        return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True), dtype=np.float32)


def clip_similarity(clip: Clip, images: Sequence[Image.Image], references: Sequence[Image.Image]) -> float:
    """Return CLIP-I: the mean cosine between features of pictures and of references, -1 to 1."""
    return float((clip.image_features(images) @ clip.image_features(references).T).mean())
