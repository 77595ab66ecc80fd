"""Result files as the ecosystem reads them, with where they came from; read back and compared before they count."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from blackbox_ti.embedding_formats import embedding_of, file_stem, tensors_by_encoder, tensors_of
from blackbox_ti.errors import InputError, OutputError
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import Encoder

__all__ = ["FILE_NAME", "load_embedding", "read_provenance", "save_embedding", "stored_placeholder"]

FILE_NAME = "learned_embeds.safetensors"
_PROVENANCE = "blackbox_ti"
_MAX_FILE_BYTES = 64_000_000


def save_embedding(
    directory: Path, placeholder_token: str, embedding: Embedding, provenance: Mapping[str, Any], *, family: str = ""
) -> Path:
    """Write the word's files and return the path of the one that holds it whole, `learned_embeds.safetensors`.

    Beside it: the same bytes under the word's own name, by which ComfyUI and A1111 know it, and for a model of several
    encoders `<encoder>/learned_embeds.safetensors` for each, as diffusers' `load_textual_inversion` wants them. Layouts
    are `blackbox_ti.embedding_formats`'; `family` is the model card's. Every file is written beside its place, read
    back, compared, then moved there, so that a crash leaves the old file or the new one.

    Raises:
        OutputError: the folder cannot be written.
    """
    metadata = {
        "format": "pt",
        "placeholder_token": placeholder_token,
        _PROVENANCE: json.dumps(provenance, sort_keys=True),
    }
    whole = tensors_of(placeholder_token, embedding, family)
    for encoder, tensors in tensors_by_encoder(placeholder_token, embedding).items():
        _write(directory / file_stem(encoder) / FILE_NAME, tensors, metadata)
    _write(directory / f"{file_stem(placeholder_token)}.safetensors", whole, metadata)
    return _write(directory / FILE_NAME, whole, metadata)


def _write(path: Path, tensors: Mapping[str, NDArray[np.float32]], metadata: dict[str, str]) -> Path:
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(_canonical(save(dict(tensors), metadata)))
        _read_back(partial, tensors)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror}); choose another --out") from error
    return path


def _canonical(file: bytes) -> bytes:
    """Sort the header, which the library writes in no fixed order, so that the same word is the same file."""
    length = int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


def _read_back(path: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    found = _tensors(path)
    if found.keys() != tensors.keys() or any(not np.array_equal(found[k], v) for k, v in tensors.items()):
        raise OutputError(f"{path} does not read back as written; check the disk")


def _tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    with safe_open(path, framework="numpy") as file:
        return {key: np.asarray(file.get_tensor(key), dtype=np.float32) for key in file.keys()}  # noqa: SIM118


def _checked(path: Path) -> dict[str, NDArray[np.float32]]:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InputError(f"{path} is too large to be a word's embedding")
        return _tensors(path)
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read as a safetensors embedding ({error}); give a {FILE_NAME}") from error


def load_embedding(path: Path, encoders: Sequence[Encoder]) -> Embedding:
    """Return the embedding of a file, (T, D) float32 an encoder.

    Raises:
        InputError: the file cannot be read, or its tensors do not fit the model's encoders.
    """
    embedding = embedding_of(_checked(path), encoders)
    for encoder in encoders:
        value = embedding.get(encoder.name)
        if value is None or value.ndim != 2 or value.shape[1] != encoder.dim or not np.isfinite(value).all():
            raise InputError(
                f"{path} was not learned for this model: {encoder.name} takes vectors of {encoder.dim} numbers"
            )
    return {encoder.name: embedding[encoder.name] for encoder in encoders}


def stored_placeholder(path: Path) -> str:
    """Return the placeholder an embedding file was saved under."""
    tensors = _checked(path)
    with safe_open(path, framework="numpy") as file:
        named = (file.metadata() or {}).get("placeholder_token")
    return named or next(iter(tensors))


def read_provenance(path: Path) -> dict[str, Any]:
    """Return what a saved embedding says of its origin; empty for files from elsewhere."""
    _checked(path)
    with safe_open(path, framework="numpy") as file:
        found: dict[str, Any] = json.loads((file.metadata() or {}).get(_PROVENANCE, "{}"))
    return found
