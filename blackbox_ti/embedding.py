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

from blackbox_ti.errors import InputError, OutputError
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import Encoder

__all__ = ["FILE_NAME", "load_embedding", "read_provenance", "save_embedding", "stored_placeholder"]

FILE_NAME = "learned_embeds.safetensors"
_PROVENANCE = "blackbox_ti"
_MAX_FILE_BYTES = 64_000_000


def save_embedding(
    directory: Path, placeholder_token: str, embedding: Embedding, provenance: Mapping[str, Any]
) -> Path:
    """Write `learned_embeds.safetensors` and return its path.

    The file holds one tensor under the placeholder's name, (D,) for one vector or (T, D) for several, as diffusers'
    `load_textual_inversion` reads it; with several encoders, one tensor under each encoder's name. It is written
    beside its place, read back, compared, then moved there, so that a crash leaves the old file or the new one.

    Raises:
        OutputError: the folder cannot be written.
    """
    single = len(embedding) == 1
    tensors = {placeholder_token if single else name: _shaped(value) for name, value in embedding.items()}
    metadata = {
        "format": "pt",
        "placeholder_token": placeholder_token,
        _PROVENANCE: json.dumps(provenance, sort_keys=True),
    }
    path = directory / FILE_NAME
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(_canonical(save(tensors, metadata)))
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


def _shaped(value: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(value[0] if value.shape[0] == 1 else value, dtype=np.float32)


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
    tensors = _checked(path)
    if len(tensors) == 1 and len(encoders) == 1:
        tensors = {encoders[0].name: next(iter(tensors.values()))}
    embedding = {name: np.atleast_2d(value) for name, value in tensors.items()}
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
