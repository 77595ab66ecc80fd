"""The picture intake against everything a stranger may send, and the store of encoded concepts."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from blackbox_ti.errors import ImageError
from server_stub.concepts import ConceptStore, decode_picture, prepare_picture

ALICE, BOB = "alice", "bob"


def _picture(seed: int = 0, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels, mode)


def _file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _decode(data: bytes, *, resolution: int = 16, max_bytes: int = 100_000, max_pixels: int = 10_000) -> Image.Image:
    return decode_picture(data, resolution=resolution, max_bytes=max_bytes, max_pixels=max_pixels)


def _latents(value: float = 1.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full((2, 4, 8, 8), value, np.float32)


def _add(store: ConceptStore, account: str, seed: int) -> str:
    concept = store.concept_id(account, [_picture(seed)])
    store.put(account, concept, _latents(seed))
    return concept


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_a_picture_of_the_right_size_keeps_its_bits(kind: str, options: dict[str, Any]) -> None:
    """A lossless file of the model's resolution decodes to the very pixels that were saved."""
    decoded = _decode(_file(_picture(), kind, **options))
    assert decoded.mode == "RGB"
    assert decoded.tobytes() == _picture().tobytes()


def test_jpeg_is_read() -> None:
    """A JPEG file decodes to what Pillow makes of it."""
    data = _file(_picture(), "JPEG", quality=90)
    assert _decode(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO", "PDF"])
def test_other_formats_are_refused(kind: str) -> None:
    """Only PNG, JPEG and WebP reach a decoder."""
    with pytest.raises(ImageError, match="PNG, JPEG or WebP"):
        _decode(_file(_picture(), kind))


def test_metadata_is_dropped_and_orientation_applied() -> None:
    """A rotated photograph comes out upright, without EXIF, text or colour profile."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "private")
    decoded = _decode(_file(_picture(), exif=exif, pnginfo=text))
    assert decoded.tobytes() == _picture().transpose(Image.Transpose.ROTATE_270).tobytes()
    assert decoded.info == {}
    assert not decoded.getexif()


def test_transparency_lies_on_white() -> None:
    """Clear pixels become white, opaque ones keep their colour, and half-clear ones are mixed."""
    image = Image.new("RGBA", (16, 16), (200, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    decoded = _decode(_file(image))
    assert [decoded.getpixel((x, 0)) for x in range(3)] == [(255, 255, 255), (127, 127, 127), (200, 0, 0)]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """Grey, palette, CMYK and 16-bit pictures keep their brightness in RGB."""
    kind = "JPEG" if mode == "CMYK" else "PNG"
    grey = Image.new("L", (16, 16), 255)
    image = Image.fromarray(np.full((16, 16), 65535, np.uint16)) if mode == "I;16" else grey.convert(mode)
    assert _decode(_file(image, kind)).getpixel((5, 5)) == (255, 255, 255)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24))
def test_any_shape_is_cropped_to_its_centre(width: int, height: int, resolution: int) -> None:
    """Whatever the aspect, the central square fills the result and nothing of the margins comes in."""
    side = min(width, height)
    image = Image.new("RGB", (width, height), "black")
    image.paste((10, 200, 30), ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2))
    prepared = prepare_picture(image, resolution)
    assert prepared.size == (resolution, resolution)
    assert prepared.getcolors() == [(resolution**2, (10, 200, 30))]


def _png_of_claimed_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(101, 100), (60_000, 60_000), (2**31 - 1, 1)])
def test_too_many_pixels_are_refused_before_decoding(size: tuple[int, int]) -> None:
    """A bomb is refused by its header: a file that claims a huge size is never decoded."""
    with pytest.raises(ImageError):
        _decode(_png_of_claimed_size(*size))


def test_too_many_bytes_are_refused() -> None:
    """A file over the limit is refused by its length."""
    with pytest.raises(ImageError, match="at most 10"):
        _decode(_file(_picture()), max_bytes=10)


@given(st.binary(max_size=300), st.integers(0, 600), st.integers(0, 255), st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_damaged_files_raise_only_image_errors(tail: bytes, at: int, byte: int, kind: str) -> None:
    """Bytes changed, cut or appended anywhere give a picture or an `ImageError`, nothing else."""
    good = bytearray(_file(_picture(), kind))
    good[at % len(good)] = byte
    for data in (bytes(good), bytes(good[: at % len(good)]) + tail, tail):
        with contextlib.suppress(ImageError):
            assert _decode(data).size == (16, 16)


def test_ids_depend_on_account_pixels_order_and_model() -> None:
    """The id is the same for the same question to another process, and another for anything that differs."""
    pictures = [_picture(0), _picture(1)]
    store = ConceptStore("f" * 64, secret=b"s")
    same = ConceptStore("f" * 64, secret=b"s").concept_id(ALICE, pictures)
    others = {
        store.concept_id(BOB, pictures),
        store.concept_id(ALICE, pictures[::-1]),
        store.concept_id(ALICE, pictures[:1]),
        ConceptStore("e" * 64, secret=b"s").concept_id(ALICE, pictures),
        ConceptStore("f" * 64, secret=b"t").concept_id(ALICE, pictures),
    }
    assert store.concept_id(ALICE, pictures) == same
    assert len(others | {same}) == 6


def test_nobody_sees_anothers_concept() -> None:
    """Another account gets nothing by the right id, and cannot delete it."""
    store = ConceptStore("f" * 64)
    concept = _add(store, ALICE, 3)
    assert store.get(BOB, concept) is None
    assert not store.delete(BOB, concept)
    found = store.get(ALICE, concept)
    assert found is not None
    np.testing.assert_array_equal(found.latents, _latents(3))
    assert not found.latents.flags.writeable


def test_deleting_twice_is_no_error(tmp_path: Path) -> None:
    """A deleted concept is gone from memory and from the folder."""
    store = ConceptStore("f" * 64, folder=tmp_path)
    concept = _add(store, ALICE, 1)
    assert store.delete(ALICE, concept)
    assert not store.delete(ALICE, concept)
    assert store.get(ALICE, concept) is None
    assert list(tmp_path.iterdir()) == []


def test_the_least_recently_used_goes_first() -> None:
    """An account over its cap loses the concept it has not asked for longest, and nobody else's."""
    store = ConceptStore("f" * 64, max_per_account=2)
    others = _add(store, BOB, 9)
    first, second = _add(store, ALICE, 1), _add(store, ALICE, 2)
    assert store.get(ALICE, first)
    third = _add(store, ALICE, 3)
    assert store.get(ALICE, second) is None
    assert all(store.get(ALICE, concept) for concept in (first, third))
    assert store.get(BOB, others)


def test_a_full_store_takes_from_whoever_holds_most() -> None:
    """One account cannot push out the concepts of another by registering many."""
    store = ConceptStore("f" * 64, max_concepts=4)
    kept = _add(store, BOB, 0)
    many = [_add(store, ALICE, seed) for seed in range(1, 9)]
    assert len(store) == 4
    assert store.get(BOB, kept)
    assert [bool(store.get(ALICE, concept)) for concept in many] == [False] * 5 + [True] * 3


def test_a_restarted_server_still_has_its_concepts(tmp_path: Path) -> None:
    """Concepts are read back from the folder; another model's, and files that are broken, are passed over."""
    concept = _add(ConceptStore("f" * 64, folder=tmp_path), ALICE, 5)
    other = _add(ConceptStore("e" * 64, folder=tmp_path), ALICE, 5)
    (tmp_path / ("0" * 64 + ".safetensors")).write_bytes(b"broken")
    restarted = ConceptStore("f" * 64, folder=tmp_path)
    assert len(restarted) == 1
    found = restarted.get(ALICE, concept)
    assert found is not None
    np.testing.assert_array_equal(found.latents, _latents(5))
    assert restarted.get(BOB, concept) is None
    assert restarted.get(ALICE, other) is None


def test_the_folder_is_bounded_too(tmp_path: Path) -> None:
    """A concept dropped for room leaves the folder, so a restart cannot bring it back."""
    store = ConceptStore("f" * 64, folder=tmp_path, max_per_account=2)
    for seed in range(5):
        _add(store, ALICE, seed)
    assert len(list(tmp_path.iterdir())) == 2
