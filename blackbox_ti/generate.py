"""Pictures of a learned word, from any endpoint that makes images."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from PIL import Image

from blackbox_ti.batching import evaluate_blocks, pack
from blackbox_ti.concept import decode_image
from blackbox_ti.endpoint import Endpoint
from blackbox_ti.errors import InputError, ProtocolError
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import ImageItem, ImagesRequest, Limits, encode_tensor

__all__ = ["generate"]


def generate(
    endpoint: Endpoint,
    embedding: Embedding,
    placeholder_token: str,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    num_inference_steps: int = 25,
    guidance_scale: float = 5.0,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
    label: str = "pictures",
) -> list[list[Image.Image]]:
    """Return one list a prompt of one RGB picture a seed; `embedding` maps encoders to (T, D).

    Raises:
        InputError: there is no prompt or no seed, or the endpoint makes no images.
        EndpointError: the host failed, or refused the embedding.
    """
    if not prompts or not seeds:
        raise InputError("pictures need at least one prompt and one seed")
    card = endpoint.describe()
    if "images" not in card.objectives:
        raise InputError("this host does not make images")
    tensors = {name: encode_tensor(value[None]) for name, value in embedding.items()}
    pairs = [(p, s) for p in range(len(prompts)) for s in seeds]
    blocks = pack(len(pairs), 1, Limits(max_candidates=card.limits.max_images))

    def request(first: int, last: int) -> ImagesRequest:
        return ImagesRequest(
            placeholder_token=placeholder_token,
            embeddings=tensors,
            prompts=list(prompts),
            items=[ImageItem(candidate=0, prompt=p, seed=s) for p, s in pairs[first:last]],
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
        )

    numbered = {block: f"{label}/{i}" for i, block in enumerate(blocks)}
    replies = evaluate_blocks(blocks, lambda b: endpoint.images(request(b.first, b.last), label=numbered[b]), 1)
    images = [_decoded(data) for reply in replies for data in reply.images]
    return [images[i : i + len(seeds)] for i in range(0, len(images), len(seeds))]


def _decoded(data: str | None) -> Image.Image:
    if data is None:
        raise ProtocolError("the host refused the embedding; it may be out of its bounds, or for another model")
    try:
        return decode_image(base64.b64decode(data, validate=True), "the host's picture")
    except (binascii.Error, ValueError) as error:
        raise ProtocolError("the host's picture is not base64") from error
