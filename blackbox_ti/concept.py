"""Reference pictures to a concept: found, decoded within limits, cropped, hashed."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from blackbox_ti.errors import ImageError
from blackbox_ti.wire import concept_digest

__all__ = ["MAX_IMAGES", "Concept", "decode_image", "encode_png", "find_images", "load_concept", "square"]

MAX_IMAGES = 20
MAX_IMAGE_BYTES = 50_000_000
MAX_IMAGE_PIXELS = 100_000_000
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True)
class Concept:
    """What is to be learned: square RGB pictures of the model's size, as PNG files, and the hash of them all."""

    names: Sequence[str]
    pngs: Sequence[bytes]
    sha256: str

    def images(self) -> list[Image.Image]:
        """Return the pictures, RGB."""
        return [decode_image(png, name) for png, name in zip(self.pngs, self.names, strict=True)]


def find_images(directory: Path) -> list[Path]:
    """Return the pictures of a folder (PNG, JPEG, WebP) by name.

    Raises:
        ImageError: the folder is not there, or holds no picture, or more than 20.
    """
    if not directory.is_dir():
        raise ImageError(f"{directory} is not a folder; --images takes a folder of 1 to {MAX_IMAGES} pictures")
    paths = sorted(p for p in directory.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not paths:
        raise ImageError(f"{directory} holds no pictures; put 1 to {MAX_IMAGES} PNG, JPEG or WebP files there")
    if len(paths) > MAX_IMAGES:
        raise ImageError(f"{directory} holds {len(paths)} pictures; keep the {MAX_IMAGES} that show the concept best")
    return paths


def decode_image(data: bytes, name: str, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Return an encoded picture as RGB, upright, alpha over white, metadata dropped.

    Raises:
        ImageError: the bytes are no PNG, JPEG or WebP, or are broken, or have more than `max_pixels` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
                width, height = opened.size
                if width * height > max_pixels:
                    raise ImageError(f"{name} has {width}x{height} pixels, over {max_pixels:,}; make it smaller")
                opened.load()
                return _flatten(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a PNG, JPEG or WebP picture; convert it to one of these") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{name} has too many pixels; make it smaller") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ImageError(f"{name} is a broken picture ({error}); replace it") from error


def _flatten(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def square(image: Image.Image, resolution: int) -> Image.Image:
    """Return the centre square of a picture at `resolution` pixels a side; one of that size already is kept."""
    if image.size == (resolution, resolution):
        return image
    return ImageOps.fit(image, (resolution, resolution), method=Image.Resampling.LANCZOS)


def encode_png(image: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise ImageError(f"{path} is larger than {MAX_IMAGE_BYTES:,} bytes; make it smaller")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read ({error.strerror}); check that it exists and is yours to read"
        ) from error


def load_concept(images: Path | Sequence[Path | Image.Image], resolution: int) -> Concept:
    """Return the concept of a folder of pictures, or of pictures given one by one, at `resolution` pixels a side.

    Raises:
        ImageError: there are none, too many, or one of them cannot be used.
    """
    sources = find_images(images) if isinstance(images, Path) else list(images)
    if not 1 <= len(sources) <= MAX_IMAGES:
        raise ImageError(f"a concept takes 1 to {MAX_IMAGES} pictures, not {len(sources)}")
    names, pngs = [], []
    for i, source in enumerate(sources):
        names.append(source.name if isinstance(source, Path) else f"image {i}")
        image = decode_image(_read(source), str(source)) if isinstance(source, Path) else _flatten(source)
        pngs.append(encode_png(square(image, resolution)))
    return Concept(names, pngs, concept_digest(pngs))
