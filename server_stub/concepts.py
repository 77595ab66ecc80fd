"""Reference pictures on the server: decoding what a stranger sent, and the store of encoded concepts.

A concept's id is derived from the account, the pixels and the model, so that registering again finds it again, before
and after a restart; only the account that registered it can see it.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from blackbox_ti.errors import ImageError

__all__ = ["Concept", "ConceptStore", "decode_picture", "prepare_picture"]

_FORMATS: Final = ("PNG", "JPEG", "WEBP")
_HIGHER_BIT_DEPTHS: Final = ("I;16", "I;16L", "I;16B", "I;16N", "I")


@dataclass(frozen=True)
class Concept:
    """An account's encoded pictures: `latents` (n, ...) float32, read-only."""

    id: str
    account: str
    latents: NDArray[np.float32]


class ConceptStore:
    """The concepts of all accounts, the least recently used dropped first; safe from any thread.

    No account holds more than `max_per_account`; when the store is full, the account with the most concepts loses one.
    With a `folder`, concepts are kept there as safetensors files and found again by the next process.
    """

    def __init__(
        self,
        fingerprint: str,
        *,
        folder: Path | None = None,
        secret: bytes = b"",
        max_concepts: int = 1024,
        max_per_account: int = 64,
    ) -> None:
        self._fingerprint = fingerprint
        self._secret = secret
        self._max_concepts = max_concepts
        self._max_per_account = max_per_account
        self._lock = Lock()
        self._concepts: OrderedDict[str, Concept] = OrderedDict()
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for concept in self._saved(folder):
                self._insert(concept)

    def __len__(self) -> int:
        with self._lock:
            return len(self._concepts)

    def concept_id(self, account: str, pictures: Sequence[Image.Image]) -> str:
        """Return the id, 64 hex digits, of decoded and preprocessed pictures in their order."""
        digest = hmac.new(self._secret, digestmod=hashlib.sha256)
        for part in (account.encode(), self._fingerprint.encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
        for picture in pictures:
            width, height = picture.size
            digest.update(width.to_bytes(8, "little") + height.to_bytes(8, "little") + picture.tobytes())
        return digest.hexdigest()

    def get(self, account: str, concept: str) -> Concept | None:
        """Return the account's concept, or None if it has none of that id."""
        with self._lock:
            found = self._concepts.get(concept)
            if found is None or found.account != account:
                return None
            self._concepts.move_to_end(concept)
            return found

    def put(self, account: str, concept: str, latents: NDArray[np.float32]) -> Concept:
        """Keep the latents of the account's pictures under the id `concept_id` gave."""
        kept = np.array(latents, dtype=np.float32)
        kept.flags.writeable = False
        added = Concept(concept, account, kept)
        with self._lock:
            self._insert(added)
            if self._folder is not None and concept in self._concepts:
                self._save(self._folder, added)
        return added

    def delete(self, account: str, concept: str) -> bool:
        """Remove the account's concept, from the folder too, and return whether it was there."""
        with self._lock:
            found = self._concepts.get(concept)
            if found is None or found.account != account:
                return False
            self._drop(concept)
            return True

    def _insert(self, concept: Concept) -> None:
        self._concepts[concept.id] = concept
        self._concepts.move_to_end(concept.id)
        held = Counter(c.account for c in self._concepts.values())
        if held[concept.account] > self._max_per_account:
            self._drop(self._oldest(concept.account))
        elif len(self._concepts) > self._max_concepts:
            self._drop(self._oldest(held.most_common(1)[0][0]))

    def _oldest(self, account: str) -> str:
        return next(id_ for id_, concept in self._concepts.items() if concept.account == account)

    def _drop(self, concept: str) -> None:
        del self._concepts[concept]
        if self._folder is not None:
            _path(self._folder, concept).unlink(missing_ok=True)

    def _save(self, folder: Path, concept: Concept) -> None:
        """Write a concept's file whole or not at all."""
        metadata = {"account": concept.account, "fingerprint": self._fingerprint}
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
            file.write(save({"latents": concept.latents}, metadata=metadata))
        os.replace(file.name, _path(folder, concept.id))

    def _saved(self, folder: Path) -> list[Concept]:
        """Return the folder's concepts of this model, the oldest first; files that do not read are passed over."""
        files = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        concepts = [_read(path, self._fingerprint) for path in files]
        return [concept for concept in concepts if concept is not None]


def _path(folder: Path, concept: str) -> Path:
    return folder / f"{concept}.safetensors"


def _read(path: Path, fingerprint: str) -> Concept | None:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
            latents = file.get_tensor("latents")
    except (SafetensorError, OSError):
        return None
    if metadata.get("fingerprint") != fingerprint or "account" not in metadata:
        return None
    latents.flags.writeable = False
    return Concept(path.stem, metadata["account"], latents)


def decode_picture(data: bytes, *, resolution: int, max_bytes: int, max_pixels: int) -> Image.Image:
    """Return an uploaded PNG, JPEG or WebP as an RGB picture of `resolution` x `resolution` pixels, without metadata.

    Size is judged before anything is decoded.

    Raises:
        ImageError: the file is too long, of another format, broken, or has too many pixels.
    """
    if len(data) > max_bytes:
        raise ImageError(f"a picture has {len(data)} bytes; send at most {max_bytes}")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(f"a picture has {width} x {height} pixels; send at most {max_pixels} in all")
            return prepare_picture(image, resolution)
    except ImageError:
        raise
    except Exception as error:  # whatever a decoder trips over, the fault is the file's
        raise ImageError("a picture cannot be read; send a PNG, JPEG or WebP file") from error


def prepare_picture(image: Image.Image, resolution: int) -> Image.Image:
    """Return `image` upright, on white, cropped to its central square and resized (Lanczos), with its pixels alone.

    A picture of that size already keeps its pixels bit for bit.
    """
    image.load()
    upright = _flatten(ImageOps.exif_transpose(image))
    if upright.size != (resolution, resolution):
        side = min(upright.size)
        left, top = ((length - side) // 2 for length in upright.size)
        square = upright.crop((left, top, left + side, top + side))
        upright = square.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return Image.frombytes("RGB", upright.size, upright.tobytes())


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode in _HIGHER_BIT_DEPTHS:
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white: Any = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")
