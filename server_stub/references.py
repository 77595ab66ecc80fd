"""Reference pictures from a request's text to an account's concept, encoded once."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.errors import ImageError
from blackbox_ti.wire import Limits, ProblemCode
from server_stub.concepts import Concept, ConceptStore, decode_picture
from server_stub.problems import ProblemError

__all__ = ["decode_pictures", "register"]


def register(
    store: ConceptStore,
    account: str,
    pictures: Sequence[Image.Image],
    encode: Callable[[Sequence[Image.Image]], NDArray[np.float32]],
) -> Concept:
    """Return the account's concept of `pictures`; `encode` makes latents (n, ...) of those not known yet."""
    identifier = store.concept_id(account, pictures)
    known = store.get(account, identifier)
    return known if known is not None else store.put(account, identifier, encode(pictures))


def decode_pictures(files: Sequence[str], *, resolution: int, limits: Limits) -> list[Image.Image]:
    """Return base64 files as RGB pictures of the model's resolution.

    Raises:
        ProblemError: there are too many, or one is not base64 of a picture within the limits.
    """
    if len(files) > limits.max_concept_images:
        detail = f"{len(files)} pictures; at most {limits.max_concept_images} in one concept"
        raise ProblemError(ProblemCode.LIMIT_EXCEEDED, detail)
    return [_decoded(index, file, resolution, limits) for index, file in enumerate(files)]


def _decoded(index: int, file: str, resolution: int, limits: Limits) -> Image.Image:
    try:
        if len(file) > 4 * (limits.max_image_bytes // 3 + 2):
            raise ImageError(f"a picture has at most {limits.max_image_bytes} bytes")
        return decode_picture(
            base64.b64decode(file, validate=True),
            resolution=resolution,
            max_bytes=limits.max_image_bytes,
            max_pixels=limits.max_image_pixels,
        )
    except (binascii.Error, ValueError) as error:
        raise ProblemError(ProblemCode.INVALID_IMAGE, f"picture {index} is not base64") from error
    except ImageError as error:
        raise ProblemError(ProblemCode.INVALID_IMAGE, f"picture {index}: {error}") from error
