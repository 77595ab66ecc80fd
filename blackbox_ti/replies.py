"""What a host's replies must be, given what was asked: a host is as untrusted as a stranger.

Every function takes the request and the reply and raises `ProtocolError` naming what does not fit; none does I/O.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Collection, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from PIL import Image
from pydantic import BaseModel, ValidationError

from blackbox_ti.errors import ProtocolError
from blackbox_ti.wire import (
    Charge,
    ImagesReply,
    ImagesRequest,
    Limits,
    LossReply,
    LossRequest,
    ModelCard,
    Prices,
    Receipt,
    Rejection,
    VocabularyReply,
    decode_tensor,
    images_cost,
    loss_cost,
)

__all__ = [
    "canonical_bytes",
    "check_charge",
    "check_images_reply",
    "check_loss_reply",
    "check_receipt",
    "check_vocabulary_page",
    "count_candidates",
    "decode_png",
    "parse_record",
    "receipt_bytes",
]

R = TypeVar("R", bound=BaseModel)

_MAX_VOCABULARY: Final = 1_000_000


def canonical_bytes(value: Any) -> bytes:
    """Return canonical JSON: sorted keys, no spaces, UTF-8, of a record or plain data."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def receipt_bytes(receipt: Receipt) -> bytes:
    """Return the bytes that a receipt's hash and signature are over."""
    return canonical_bytes(receipt.model_dump(mode="json", exclude={"hash", "signature"}))


def parse_record(kind: type[R], body: bytes) -> R:
    """Return the record in a reply's body.

    Raises:
        ProtocolError: the body is not JSON, or not that record.
    """
    try:
        return kind.model_validate_json(body)
    except (ValidationError, ValueError, RecursionError) as error:
        raise ProtocolError(f"the host's reply is not the protocol's {kind.__name__}") from error


def check_loss_reply(request: LossRequest, reply: LossReply, card: ModelCard) -> None:
    """Check that every candidate is answered once, in order, with finite losses or a ranking, at the exact price."""
    asked = count_candidates(request)
    _check_answered(reply.candidates, reply.rejected, asked)
    if card.reply_mode == "rank":
        _check_ranking(reply)
    else:
        _check_losses(reply, len(request.samples))
    check_charge(reply.charge, loss_cost(len(reply.candidates), len(request.samples)), card.prices)


def check_images_reply(request: ImagesRequest, reply: ImagesReply, card: ModelCard) -> None:
    """Check that every item has its picture, of the size asked and safe to decode, at the exact price."""
    rejected = _rejected_candidates(reply.rejected, count_candidates(request))
    if len(reply.images) != len(request.items):
        raise ProtocolError(f"the host sent {len(reply.images)} pictures for {len(request.items)} items")
    size = (request.width or card.resolution, request.height or card.resolution)
    for item, picture in zip(request.items, reply.images, strict=True):
        if (picture is None) != (item.candidate in rejected):
            raise ProtocolError("the host's pictures do not fit the candidates it rejected")
        if picture is not None:
            decode_png(picture, size, card.limits)
    made = sum(picture is not None for picture in reply.images)
    check_charge(reply.charge, images_cost(made, request.num_inference_steps, request.guidance_scale), card.prices)


def check_charge(charge: Charge, cost: tuple[int, int], prices: Prices) -> None:
    """Check a charge against the (forwards, queries) it must be and the prices on the model card."""
    forwards, queries = cost
    expected = (forwards, queries, prices.price_of(forwards, queries))
    told = (charge.forwards, charge.queries, charge.price_micros)
    if told != expected:
        raise ProtocolError(f"the host charged {told} (forwards, queries, micros) where {expected} is the exact cost")


def check_receipt(charge: Charge, *, key: str, body: bytes, card: ModelCard) -> None:
    """Check that the receipt, if there is one, is for this key, these bytes, this model and this charge."""
    receipt = charge.receipt
    if receipt is None:
        return
    told = (receipt.forwards, receipt.queries, receipt.price_micros)
    fits = (
        receipt.idempotency_key == key,
        receipt.request_sha256 == hashlib.sha256(body).hexdigest(),
        receipt.fingerprint == card.fingerprint,
        told == (charge.forwards, charge.queries, charge.price_micros),
        receipt.hash == hashlib.sha256(receipt_bytes(receipt)).hexdigest(),
    )
    if not all(fits):
        raise ProtocolError("the host's receipt is for another request, model or charge")


def check_vocabulary_page(page: VocabularyReply, *, encoder: str, offset: int, total: int, dim: int | None) -> None:
    """Check that a page of a token table is the one asked for, and holds one finite embedding a token."""
    count = len(page.tokens)
    follows = page.encoder == encoder and page.offset == offset and page.total == total <= _MAX_VOCABULARY
    if not follows or not 0 < count <= total - offset:
        raise ProtocolError("the host's vocabulary pages do not follow each other")
    if page.embeddings.shape != [count, dim] or not np.isfinite(decode_tensor(page.embeddings)).all():
        raise ProtocolError("the host's vocabulary does not have one finite embedding a token")


def count_candidates(request: LossRequest | ImagesRequest) -> int:
    """Return how many candidates a request holds."""
    return next(iter(request.embeddings.values())).shape[0]


def _rejected_candidates(rejected: Sequence[Rejection], asked: int) -> set[int]:
    named = [rejection.candidate for rejection in rejected]
    if len(set(named)) != len(named) or any(candidate >= asked for candidate in named):
        raise ProtocolError("the host rejects a candidate twice, or one that was not asked")
    return set(named)


def _check_answered(candidates: Sequence[int], rejected: Sequence[Rejection], asked: int) -> None:
    refused = _rejected_candidates(rejected, asked)
    if list(candidates) != [c for c in range(asked) if c not in refused]:
        raise ProtocolError("the host's reply does not cover the candidates asked, each once and in order")


def _check_losses(reply: LossReply, samples: int) -> None:
    if reply.losses is None or reply.ranking is not None:
        raise ProtocolError("the host sent no losses where its model card promises them")
    if reply.losses.shape != [len(reply.candidates), samples]:
        raise ProtocolError(f"the host's losses have shape {reply.losses.shape[:4]}, not the one asked")
    if not np.isfinite(decode_tensor(reply.losses)).all():
        raise ProtocolError("the host sent a loss that is not finite")


def _check_ranking(reply: LossReply) -> None:
    if reply.losses is not None or reply.ranking is None:
        raise ProtocolError("the host sent losses where its model card promises a ranking")
    if not _is_permutation(reply.ranking, reply.candidates):
        raise ProtocolError("the host's ranking does not list each candidate once")


def _is_permutation(left: Collection[int], right: Collection[int]) -> bool:
    return len(left) == len(right) and set(left) == set(right)


def decode_png(picture: str, size: tuple[int, int], limits: Limits) -> Image.Image:
    """Return one base64 PNG of `size` (width, height) as RGB, without its metadata.

    Bytes are checked before decoding, pixels before decompressing, then that it is whole.

    Raises:
        ProtocolError: it is too large, of another size, or not a whole PNG.
    """
    if len(picture) > 4 * (limits.max_image_bytes // 3 + 2):
        raise ProtocolError("the host sent a picture of more bytes than its model card allows")
    try:
        raw = base64.b64decode(picture, validate=True)
        with Image.open(io.BytesIO(raw), formats=("PNG",)) as image:
            _check_size(image.size, size, limits)
            image.verify()
        with Image.open(io.BytesIO(raw), formats=("PNG",)) as image:
            decoded = image.convert("RGB")
    except ProtocolError:
        raise
    except Exception as error:
        # A decoder fed a stranger's bytes fails in more ways than its documentation lists.
        raise ProtocolError("the host sent a picture that is not a whole PNG") from error
    decoded.info = {}
    return decoded


def _check_size(size: tuple[int, int], asked: tuple[int, int], limits: Limits) -> None:
    if size != asked or size[0] * size[1] > limits.max_image_pixels:
        raise ProtocolError(f"the host sent a picture of {size[0]}x{size[1]} pixels where {asked} was asked")
