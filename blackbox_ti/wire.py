"""The only schema of the protocol, version 1: records, tensor codec, limits, problem codes.

Its parts are `wire_records`, `wire_tensor`, `wire_card` and `wire_books`; everyone imports from here. Rules: no I/O, no
policy, no other module of the client but `errors`; the server imports this alone of the client.
Floats are IEEE 754; tensors are base64 of little-endian C-order bytes; money is integers of a millionth of the
currency. Records refuse unknown fields on the way in to the server and ignore them on the way back to the client.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from blackbox_ti.wire_books import Charge, Receipt, ReceiptsReply, UsageReply, images_cost, loss_cost
from blackbox_ti.wire_card import Encoder, Limits, ModelCard, Prices
from blackbox_ti.wire_records import NonNegative, Positive, Prompt, Record, Request, Seed, ShortText
from blackbox_ti.wire_tensor import Tensor, decode_tensor, encode_tensor

__all__ = [
    "IDEMPOTENCY_KEY_HEADER",
    "PROBLEM_MEDIA_TYPE",
    "PROTOCOL_VERSION",
    "RECEIPT_HEAD_HEADER",
    "REPLAYED_HEADER",
    "REQUEST_ID_HEADER",
    "Charge",
    "ConceptReply",
    "ConceptRequest",
    "Encoder",
    "ImageItem",
    "ImagesReply",
    "ImagesRequest",
    "Limits",
    "LossReply",
    "LossRequest",
    "ModelCard",
    "Prices",
    "Problem",
    "ProblemCode",
    "Receipt",
    "ReceiptsReply",
    "Rejection",
    "Sample",
    "Tensor",
    "UsageReply",
    "VocabularyReply",
    "concept_digest",
    "decode_tensor",
    "encode_tensor",
    "images_cost",
    "loss_cost",
]

PROTOCOL_VERSION: Final = "1"
IDEMPOTENCY_KEY_HEADER: Final = "Idempotency-Key"
REPLAYED_HEADER: Final = "Idempotent-Replayed"
REQUEST_ID_HEADER: Final = "X-Request-Id"
RECEIPT_HEAD_HEADER: Final = "Receipt-Head"
PROBLEM_MEDIA_TYPE: Final = "application/problem+json"


class ConceptRequest(Request):
    """Reference images, once; each base64 of a PNG, JPEG or WebP file."""

    images: Annotated[list[str], Field(min_length=1)]


class ConceptReply(Record):
    """The id of a registered concept, derived by the host from account, content and model."""

    concept: ShortText
    images: Positive


class Sample(Request):
    """One question of a bank: image and prompt by index, `t` in (0, 1) of the noise schedule, the noise's seed."""

    image: NonNegative
    prompt: NonNegative
    t: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed


class LossRequest(Request):
    """Score candidates: `embeddings` maps each encoder to a tensor (B, T, D); every candidate gets all samples."""

    concept: ShortText
    placeholder_token: ShortText
    embeddings: Annotated[dict[str, Tensor], Field(min_length=1)]
    prompts: Annotated[list[Prompt], Field(min_length=1)]
    samples: Annotated[list[Sample], Field(min_length=1)]

    @model_validator(mode="after")
    def _prompts_exist(self) -> Self:
        if any(s.prompt >= len(self.prompts) for s in self.samples):
            raise ValueError("a sample names a prompt that is not in the request")
        return self


class Rejection(Record):
    """A candidate that failed alone."""

    candidate: NonNegative
    code: ShortText
    detail: Annotated[str, Field(max_length=2000)]


class LossReply(Record):
    """Losses (len(`candidates`), n) of the candidates not rejected, in the order asked.

    In rank mode `losses` is null and `ranking` lists the candidates from the best mean loss to the worst.
    """

    candidates: list[NonNegative]
    losses: Tensor | None
    ranking: list[NonNegative] | None = None
    rejected: list[Rejection] = []  # noqa: RUF012 - pydantic copies it
    charge: Charge


class ImageItem(Request):
    """One picture to make: candidate and prompt by index, and the seed of its first latents."""

    candidate: NonNegative
    prompt: NonNegative
    seed: Seed


class ImagesRequest(Request):
    """Make pictures; `embeddings` maps each encoder to (B, T, D); `height` and `width` null for the model's own."""

    placeholder_token: ShortText
    embeddings: Annotated[dict[str, Tensor], Field(min_length=1)]
    prompts: Annotated[list[Prompt], Field(min_length=1)]
    items: Annotated[list[ImageItem], Field(min_length=1)]
    num_inference_steps: Positive = 25
    guidance_scale: Annotated[float, Field(ge=0, le=50)] = 5.0
    negative_prompt: Prompt = ""
    height: Annotated[int, Field(ge=8, le=4096)] | None = None
    width: Annotated[int, Field(ge=8, le=4096)] | None = None

    @model_validator(mode="after")
    def _prompts_exist(self) -> Self:
        if any(i.prompt >= len(self.prompts) for i in self.items):
            raise ValueError("an item names a prompt that is not in the request")
        return self


class ImagesReply(Record):
    """PNG files in base64, one an item, null where its candidate was rejected."""

    images: list[str | None]
    rejected: list[Rejection] = []  # noqa: RUF012 - pydantic copies it
    charge: Charge


class VocabularyReply(Record):
    """A page of an encoder's token table: `tokens` and their embeddings (len(tokens), D)."""

    encoder: ShortText
    total: NonNegative
    offset: NonNegative
    tokens: list[str]
    embeddings: Tensor


class ProblemCode(StrEnum):
    """Every reason a host gives for not doing what was asked."""

    INVALID_REQUEST = "invalid_request"
    INVALID_TENSOR = "invalid_tensor"
    INVALID_IMAGE = "invalid_image"
    LIMIT_EXCEEDED = "limit_exceeded"
    PLACEHOLDER_TAKEN = "placeholder_taken"
    CONCEPT_NOT_FOUND = "concept_not_found"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_OFFERED = "not_offered"
    IDEMPOTENCY_KEY_MISSING = "idempotency_key_missing"
    IDEMPOTENCY_KEY_IN_FLIGHT = "idempotency_key_in_flight"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    BUDGET_SPENT = "budget_spent"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    NOT_READY = "not_ready"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    INTERNAL = "internal"


class Problem(Record):
    """An error as RFC 9457 has it, plus a stable `code`, whether a retry can help, and the request's id."""

    type: str = "about:blank"
    title: Annotated[str, Field(max_length=500)] = ""
    status: int
    detail: Annotated[str, Field(max_length=4000)] = ""
    code: str
    retryable: bool = False
    request_id: str | None = None


def concept_digest(images: Sequence[bytes]) -> str:
    """Return the SHA-256 over the SHA-256 of each picture's file, in hex: the id of a concept by its content alone."""
    return hashlib.sha256(b"".join(hashlib.sha256(image).digest() for image in images)).hexdigest()
