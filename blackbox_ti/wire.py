"""The only schema of the protocol, version 1: records, tensor codec, limits, problem codes.

Rules of this file: no I/O, no policy, no other module of the client but `errors`; the server imports this alone.
Floats are IEEE 754; tensors are base64 of little-endian C-order bytes; money is integers of a millionth of the
currency. Records refuse unknown fields on the way in to the server and ignore them on the way back to the client.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from blackbox_ti.errors import WireError

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

Array = NDArray[np.float32]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
ShortText = Annotated[str, Field(max_length=256)]
Prompt = Annotated[str, Field(max_length=2000)]

_DTYPES: Final[dict[str, np.dtype[Any]]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_MAX_RANK: Final = 4


class _Record(BaseModel):
    """A record a host sends: unknown fields are a newer host's and are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Request(BaseModel):
    """A record a client sends: unknown fields are mistakes and are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tensor(_Request):
    """An array on the wire: `data` is base64 of the little-endian bytes in C order."""

    dtype: Literal["float32", "float16"]
    shape: Annotated[list[NonNegative], Field(max_length=_MAX_RANK)]
    data: str


def encode_tensor(array: NDArray[Any], dtype: Literal["float32", "float16"] = "float32") -> Tensor:
    """Return `array` as a wire tensor of `dtype`.

    Raises:
        WireError: the array has more than four axes.
    """
    if array.ndim > _MAX_RANK:
        raise WireError(f"a tensor has at most {_MAX_RANK} axes, not {array.ndim}")
    raw = np.ascontiguousarray(array, dtype=_DTYPES[dtype]).tobytes()
    return Tensor(dtype=dtype, shape=list(array.shape), data=base64.b64encode(raw).decode("ascii"))


def decode_tensor(tensor: Tensor, *, max_bytes: int = 2**28) -> Array:
    """Return a wire tensor as a float32 array of its shape, NaN and infinities kept for the caller to judge.

    Raises:
        WireError: the data is not base64, or its length is not what dtype and shape say, or over `max_bytes`.
    """
    dtype = _DTYPES[tensor.dtype]
    expected = math.prod(tensor.shape) * dtype.itemsize
    if expected > max_bytes or len(tensor.data) > 4 * (expected // 3 + 2):
        raise WireError(f"tensor of shape {tensor.shape} is longer than its shape or the limit of {max_bytes} bytes")
    try:
        raw = base64.b64decode(tensor.data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError("tensor data is not base64") from error
    if len(raw) != expected:
        raise WireError(f"tensor data has {len(raw)} bytes where shape {tensor.shape} of {tensor.dtype} has {expected}")
    return np.asarray(np.frombuffer(raw, dtype=dtype).reshape(tensor.shape), dtype=np.float32).copy()


class Encoder(_Record):
    """One text encoder: the width of its token embeddings, and the norm their rows have."""

    name: ShortText
    dim: Positive
    norm_mean: Finite
    norm_std: Finite


class Limits(_Record):
    """What one request may hold; `max_norm` bounds each embedding vector's L2 norm."""

    max_candidates: Positive = 64
    max_samples: Positive = 256
    max_forwards: Positive = 4096
    max_vectors: Positive = 16
    max_prompts: Positive = 64
    max_prompt_tokens: Positive = 77
    max_images: Positive = 64
    max_steps: Positive = 100
    max_concept_images: Positive = 20
    max_image_bytes: Positive = 10_000_000
    max_image_pixels: Positive = 16_777_216
    max_body_bytes: Positive = 67_108_864
    max_concurrency: Positive = 4
    max_norm: Finite = 1e6


class Prices(_Record):
    """Unit prices in millionths of `currency`."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    forward_micros: NonNegative = 0
    query_micros: NonNegative = 0


class ModelCard(_Record):
    """What `GET /v1/model` says of the endpoint.

    `fingerprint` is the SHA-256 of the weights in hex; `resolution` is in pixels; `reply_mode` is how losses come
    back: `exact`, `rounded` to `reply_digits` significant digits, or `rank`, the order of the candidates alone.
    `receipt_public_key` is a raw Ed25519 key in hex.
    """

    protocol_version: ShortText
    model: ShortText
    family: ShortText
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    encoders: Annotated[list[Encoder], Field(min_length=1, max_length=8)]
    resolution: Positive
    prediction_type: ShortText
    objectives: list[Literal["loss", "images"]]
    reply_mode: Literal["exact", "rounded", "rank"] = "exact"
    reply_digits: int | None = None
    vocabulary: bool = False
    limits: Limits = Limits()
    prices: Prices = Prices()
    receipt_public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class Receipt(_Record):
    """The host's signed word for one charge; `previous` is the hash of the account's receipt before it.

    `hash` is the SHA-256 of the canonical JSON (sorted keys, no spaces, UTF-8) of all fields but `hash` and
    `signature`; `signature` is Ed25519 over those same bytes, in hex. The first receipt's `previous` is 64 zeros.
    `request_sha256` is the hash of the request's body bytes. `issued_at` is RFC 3339, UTC.
    """

    sequence: Positive
    account: ShortText
    idempotency_key: ShortText
    request_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    route: ShortText
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    forwards: NonNegative
    queries: NonNegative
    price_micros: NonNegative
    currency: ShortText
    issued_at: ShortText
    previous: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class Charge(_Record):
    """What one request cost."""

    forwards: NonNegative
    queries: NonNegative
    price_micros: NonNegative
    receipt: Receipt | None = None


class ConceptRequest(_Request):
    """Reference images, once; each base64 of a PNG, JPEG or WebP file."""

    images: Annotated[list[str], Field(min_length=1)]


class ConceptReply(_Record):
    """The id of a registered concept, derived by the host from account, content and model."""

    concept: ShortText
    images: Positive


class Sample(_Request):
    """One question of a bank: image and prompt by index, `t` in (0, 1) of the noise schedule, the noise's seed."""

    image: NonNegative
    prompt: NonNegative
    t: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed


class LossRequest(_Request):
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


class Rejection(_Record):
    """A candidate that failed alone."""

    candidate: NonNegative
    code: ShortText
    detail: Annotated[str, Field(max_length=2000)]


class LossReply(_Record):
    """Losses (len(`candidates`), n) of the candidates not rejected, in the order asked.

    In rank mode `losses` is null and `ranking` lists the candidates from the best mean loss to the worst.
    """

    candidates: list[NonNegative]
    losses: Tensor | None
    ranking: list[NonNegative] | None = None
    rejected: list[Rejection] = []
    charge: Charge


class ImageItem(_Request):
    """One picture to make: candidate and prompt by index, and the seed of its first latents."""

    candidate: NonNegative
    prompt: NonNegative
    seed: Seed


class ImagesRequest(_Request):
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


class ImagesReply(_Record):
    """PNG files in base64, one an item, null where its candidate was rejected."""

    images: list[str | None]
    rejected: list[Rejection] = []
    charge: Charge


class VocabularyReply(_Record):
    """A page of an encoder's token table: `tokens` and their embeddings (len(tokens), D)."""

    encoder: ShortText
    total: NonNegative
    offset: NonNegative
    tokens: list[str]
    embeddings: Tensor


class UsageReply(_Record):
    """What the account spent, and its caps where it has some; `head` is the hash of its last receipt."""

    account: ShortText
    forwards: NonNegative
    queries: NonNegative
    price_micros: NonNegative
    currency: ShortText
    max_forwards: NonNegative | None = None
    max_queries: NonNegative | None = None
    max_price_micros: NonNegative | None = None
    receipts: NonNegative = 0
    head: str | None = None


class ReceiptsReply(_Record):
    """A page of the account's receipts in order; `next_after` is the sequence to ask from, null at the end."""

    receipts: list[Receipt]
    next_after: int | None = None


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


class Problem(_Record):
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


def loss_cost(candidates: int, samples: int) -> tuple[int, int]:
    """Return (forwards, queries) of a loss request: one forward a sample and candidate, one query a candidate."""
    return candidates * samples, candidates


def images_cost(items: int, num_inference_steps: int, guidance_scale: float) -> tuple[int, int]:
    """Return (forwards, queries) of an images request: steps an image, twice with guidance (`guidance_scale` > 1)."""
    return items * num_inference_steps * (2 if guidance_scale > 1 else 1), items
