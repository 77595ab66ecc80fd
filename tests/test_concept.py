"""Reference pictures: found, decoded within limits, cropped, hashed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from blackbox_ti.concept import MAX_IMAGES, decode_image, encode_png, find_images, load_concept, square
from blackbox_ti.errors import ImageError


def _picture(width: int = 12, height: int = 8, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _folder(path: Path, count: int) -> Path:
    for i in range(count):
        _picture(seed=i).save(path / f"{i:02d}.png")
    return path


def test_pictures_are_found_by_name_and_other_files_left_alone(tmp_path: Path) -> None:
    """A folder's pictures come in the order of their names, whatever else lies there."""
    _folder(tmp_path, 3)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "sub.png").mkdir()
    assert [p.name for p in find_images(tmp_path)] == ["00.png", "01.png", "02.png"]


@pytest.mark.parametrize("count", [0, MAX_IMAGES + 1])
def test_a_folder_holds_one_to_twenty_pictures(tmp_path: Path, count: int) -> None:
    """None or too many is an error that says how many are taken."""
    with pytest.raises(ImageError, match=str(MAX_IMAGES)):
        find_images(_folder(tmp_path, count))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The error names the folder that is not there."""
    with pytest.raises(ImageError, match="nowhere"):
        find_images(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_read(kind: str) -> None:
    """PNG, JPEG and WebP decode to RGB."""
    buffer = io.BytesIO()
    _picture().save(buffer, format=kind)
    assert decode_image(buffer.getvalue(), "x").mode == "RGB"


def test_other_formats_are_refused() -> None:
    """A GIF is a picture, but none that is read here."""
    buffer = io.BytesIO()
    _picture().save(buffer, format="GIF")
    with pytest.raises(ImageError, match="PNG, JPEG or WebP"):
        decode_image(buffer.getvalue(), "x.gif")


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    """A picture over the cap is refused, and the message says its size."""
    with pytest.raises(ImageError, match="12x8"):
        decode_image(encode_png(_picture()), "x", max_pixels=95)


@given(st.binary(max_size=200), st.integers(0, 300))
def test_broken_bytes_raise_only_the_picture_error(noise: bytes, cut: int) -> None:
    """Garbage, and a good file cut or overwritten anywhere, end in ImageError or in a picture."""
    good = encode_png(_picture())
    for data in (noise, good[:cut], good[:cut] + noise + good[cut + len(noise) :]):
        try:
            assert decode_image(data, "x").mode == "RGB"
        except ImageError:
            continue


def test_alpha_lies_over_white_and_metadata_is_dropped() -> None:
    """A transparent picture shows white, and nothing of its metadata stays."""
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(buffer, format="PNG", pnginfo=None)
    picture = decode_image(buffer.getvalue(), "x")
    assert picture.getpixel((1, 1)) == (255, 255, 255)
    assert picture.info == {}


def test_orientation_is_applied() -> None:
    """A picture that its EXIF turns comes upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    _picture(12, 8).save(buffer, format="JPEG", exif=exif)
    assert decode_image(buffer.getvalue(), "x").size == (8, 12)


def test_a_square_of_the_right_size_keeps_its_bits() -> None:
    """Nothing is resampled that need not be."""
    picture = _picture(16, 16)
    assert np.array_equal(np.asarray(square(picture, 16)), np.asarray(picture))
    assert square(_picture(20, 10), 16).size == (16, 16)


def test_the_hash_tells_pictures_and_their_order_apart(tmp_path: Path) -> None:
    """The same pictures have the same hash; another order or picture has another."""
    pictures = [_picture(16, 16, seed) for seed in range(3)]
    one, same = load_concept(pictures, 16), load_concept(list(pictures), 16)
    assert one.sha256 == same.sha256
    assert load_concept(pictures[::-1], 16).sha256 != one.sha256
    assert load_concept(pictures[:2], 16).sha256 != one.sha256


def test_a_folder_and_its_files_are_the_same_concept(tmp_path: Path) -> None:
    """A folder is a short way to name its files."""
    folder = _folder(tmp_path, 2)
    assert load_concept(folder, 8).pngs == load_concept(find_images(folder), 8).pngs


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    """The error names the file to replace."""
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ImageError, match=r"bad\.png"):
        load_concept(tmp_path, 8)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """A path that is not there is an ImageError, not an OSError."""
    with pytest.raises(ImageError, match="gone"):
        load_concept([tmp_path / "gone.png"], 8)


def test_pictures_come_back_as_images() -> None:
    """A concept gives its pictures back as they were sent."""
    concept = load_concept([_picture(8, 8)], 8)
    assert np.array_equal(np.asarray(concept.images()[0]), np.asarray(_picture(8, 8)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_is_sent_holds_no_metadata(kind: str, tmp_path: Path) -> None:
    """Neither EXIF nor comments nor colour profiles of the user's file are in the bytes that go to a host."""
    exif = Image.Exif()
    exif[0x010E] = "12-planted-lane"
    path = tmp_path / f"x.{kind.lower()}"
    Image.new("RGB", (8, 8), (10, 20, 30)).save(path, kind, exif=exif, icc_profile=b"planted-profile")
    assert b"planted" in path.read_bytes()
    for sources in (tmp_path, [path], [Image.open(path)]):
        (png,) = load_concept(sources, 8).pngs
        assert b"planted" not in png
        assert [
            png[i : i + 4] for i in range(8, len(png)) if png[i : i + 4] in (b"eXIf", b"tEXt", b"iCCP", b"iTXt")
        ] == []
