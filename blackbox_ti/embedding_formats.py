"""How a word's tensors are named in files: pure layouts, one for each way the ecosystem reads them.

    one encoder       {word: (D,) or (T, D)}                          diffusers, A1111, ComfyUI
    several           {clip_l: (T, D), clip_g: (T, D'), ...}          A1111 (SDXL), ComfyUI; diffusers by tensor
    one of several    {word: (D,) or (T, D)} a file                   diffusers, one load an encoder

Sources: diffusers' `TextualInversionLoaderMixin` and its guide to SDXL words (keys `clip_l`, `clip_g`); ComfyUI's
`load_embed` (the tokenizer's own key, else the file's first tensor; keys `clip_l`, `clip_g`, `t5xxl`); A1111's
`create_embedding_from_data` (SDXL by the keys `clip_l` and `clip_g`, rows counted, so always two axes; else exactly one
tensor). Both web interfaces know a word by the name of its file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import Encoder

__all__ = ["embedding_of", "file_stem", "tensors_by_encoder", "tensors_of"]

Tensors = dict[str, NDArray[np.float32]]

# By the pipeline's own names of its text encoders; the order is the pipeline's.
_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "stable-diffusion-xl": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
    "stable-diffusion-3": {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"},
    "flux": {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"},
}
_ORDER: Final = ("clip_l", "clip_g", "t5xxl")
_RESERVED_STEMS: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


def tensors_of(word: str, embedding: Embedding, family: str = "") -> Tensors:
    """Return the tensors of the one file that holds the whole word.

    Encoders (T, D) of a family not known here keep their own names as keys.
    """
    if len(embedding) == 1:
        return {word: _squeezed(next(iter(embedding.values())))}
    keys = _KEYS.get(family, {})
    return {keys.get(name, name): np.ascontiguousarray(value, dtype=np.float32) for name, value in embedding.items()}


def tensors_by_encoder(word: str, embedding: Embedding) -> dict[str, Tensors]:
    """Return the tensors of one file an encoder, by encoder; empty for a model with a single encoder."""
    return {name: {word: _squeezed(value)} for name, value in embedding.items()} if len(embedding) > 1 else {}


def embedding_of(tensors: Mapping[str, NDArray[np.float32]], encoders: Sequence[Encoder]) -> Embedding:
    """Return the tensors of a file by encoder, (T, D) each; encoders the file says nothing of are left out."""
    if len(tensors) == len(encoders) == 1:
        return {encoders[0].name: np.atleast_2d(next(iter(tensors.values())))}
    named = {e.name: tensors[e.name] for e in encoders if e.name in tensors}
    if not named:
        in_order = [tensors[key] for key in _ORDER if key in tensors]
        named = {e.name: value for e, value in zip(encoders, in_order, strict=False)}
    return {name: np.atleast_2d(value) for name, value in named.items()}


def file_stem(word: str) -> str:
    """Return the word as a file's name that any system takes: `sks` for `<sks>`, no path and nothing hidden."""
    stem = re.sub(r"[^\w.-]+", "", word).strip(".-_")
    return "word" if not stem or _RESERVED_STEMS.fullmatch(stem.split(".")[0]) else stem


def _squeezed(value: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(value[0] if value.shape[0] == 1 else value, dtype=np.float32)
