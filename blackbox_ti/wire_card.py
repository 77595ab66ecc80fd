"""The model card: what an endpoint says of itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from blackbox_ti.wire_records import Finite, Hex256, NonNegative, Positive, Record, ShortText

__all__ = ["Encoder", "Limits", "ModelCard", "Prices"]


class Encoder(Record):
    """One text encoder: the width of its token embeddings, and the norm their rows have."""

    name: ShortText
    dim: Positive
    norm_mean: Finite
    norm_std: Finite


class Limits(Record):
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


class Prices(Record):
    """Unit prices in millionths of `currency`."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    forward_micros: NonNegative = 0
    query_micros: NonNegative = 0

    def price_of(self, forwards: int, queries: int) -> int:
        """Return what forwards and queries cost together, in millionths of the currency."""
        return forwards * self.forward_micros + queries * self.query_micros


class ModelCard(Record):
    """What `GET /v1/model` says of the endpoint.

    `fingerprint` is the SHA-256 of the weights in hex; `resolution` is in pixels; `reply_mode` is how losses come
    back: `exact`, `rounded` to `reply_digits` significant digits, or `rank`, the order of the candidates alone.
    `receipt_public_key` is a raw Ed25519 key in hex.
    """

    protocol_version: ShortText
    model: ShortText
    family: ShortText
    fingerprint: Hex256
    encoders: Annotated[list[Encoder], Field(min_length=1, max_length=8)]
    resolution: Positive
    prediction_type: ShortText
    objectives: list[Literal["loss", "images"]]
    reply_mode: Literal["exact", "rounded", "rank"] = "exact"
    reply_digits: int | None = None
    vocabulary: bool = False
    limits: Limits = Limits()
    prices: Prices = Prices()
    receipt_public_key: Hex256 | None = None
