"""Registering reference pictures over HTTP."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blackbox_ti.wire import Problem
from tests.server_stub.served import picture, served


def _file(kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_taken(kind: str) -> None:
    """PNG, JPEG and WebP become a concept of as many pictures."""
    with served() as app:
        reply = app.client.post("/v1/concepts", json={"images": [_file(kind), picture()]})
        assert (reply.status_code, reply.json()["images"]) == (200, 2)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_no_other_format_is(kind: str) -> None:
    """Other decoders, each with its own history of holes, are never reached."""
    with served() as app:
        reply = app.client.post("/v1/concepts", json={"images": [_file(kind)]})
        assert Problem.model_validate_json(reply.content).code == "invalid_image"


def test_pictures_are_known_by_their_pixels() -> None:
    """The same pixels in another file, with other metadata, are the same concept; in another order they are not."""
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    with served() as app:
        ids = [
            app.client.post("/v1/concepts", json={"images": images}).json()["concept"]
            for images in ([_file("PNG"), picture()], [_file("WEBP", lossless=True, exif=exif), picture()])
        ]
        turned = app.client.post("/v1/concepts", json={"images": [picture(), _file("PNG")]}).json()["concept"]
        assert ids[0] == ids[1] != turned
