"""Tests of the way of reference pictures into the concept store."""

from __future__ import annotations

import base64
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.wire import Limits, ProblemCode
from server_stub.concepts import ConceptStore
from server_stub.problems import ProblemError
from server_stub.references import decode_pictures, register
from tests.server_stub.served import picture


def test_the_same_pictures_are_encoded_once() -> None:
    """Registering again returns the same concept without the engine; another order is another concept."""
    calls: list[int] = []

    def encode(pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        calls.append(len(pictures))
        return np.zeros((len(pictures), 4), np.float32)

    store = ConceptStore("ab" * 32, secret=b"s")
    pictures = decode_pictures([picture(1), picture(2)], resolution=16, limits=Limits())
    first, again = (register(store, "ada", pictures, encode) for _ in range(2))
    other = register(store, "ada", pictures[::-1], encode)
    assert (first.id == again.id, first.id == other.id, calls) == (True, False, [2, 2])


@given(text=st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.hex()))
def test_what_is_no_picture_is_refused_by_its_place(text: str) -> None:
    """Any text raises the one typed error and says which picture it was."""
    with pytest.raises(ProblemError) as caught:
        decode_pictures([picture(), text], resolution=16, limits=Limits())
    assert caught.value.code is ProblemCode.INVALID_IMAGE
    assert caught.value.detail.startswith("picture 1")


def test_no_address_is_ever_fetched(tmp_path: Path) -> None:
    """URLs and paths in a picture's place are refused as text, and nobody connects to them or reads them."""
    file = tmp_path / "picture.png"
    file.write_bytes(base64.b64decode(picture()))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/picture.png"
        for text in (url, base64.b64encode(url.encode()).decode(), f"data:image/png;base64,{picture()}", str(file)):
            with pytest.raises(ProblemError) as caught:
                decode_pictures([text], resolution=16, limits=Limits())
            assert caught.value.code is ProblemCode.INVALID_IMAGE
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_concept_images": 1}, ProblemCode.LIMIT_EXCEEDED),
        ({"max_image_bytes": 10}, ProblemCode.INVALID_IMAGE),
        ({"max_image_pixels": 255}, ProblemCode.INVALID_IMAGE),
    ],
)
def test_number_bytes_and_pixels_are_bounded(limits: dict[str, int], code: ProblemCode) -> None:
    """Too many pictures, bytes or pixels are refused before anything is decoded."""
    with pytest.raises(ProblemError) as caught:
        decode_pictures([picture(), picture()], resolution=16, limits=Limits(**limits))
    assert caught.value.code is code
