"""What requests cost, and the records of who was charged what."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from blackbox_ti.wire_records import Hex256, NonNegative, Positive, Record, ShortText

__all__ = ["Charge", "Receipt", "ReceiptsReply", "UsageReply", "images_cost", "loss_cost"]


class Receipt(Record):
    """The host's signed word for one charge; `previous` is the hash of the account's receipt before it.

    `hash` is the SHA-256 of the canonical JSON (sorted keys, no spaces, UTF-8) of all fields but `hash` and
    `signature`; `signature` is Ed25519 over those same bytes, in hex. The first receipt's `previous` is 64 zeros.
    `request_sha256` is the hash of the request's body bytes. `issued_at` is RFC 3339, UTC.
    """

    sequence: Positive
    account: ShortText
    idempotency_key: ShortText
    request_sha256: Hex256
    route: ShortText
    fingerprint: Hex256
    forwards: NonNegative
    queries: NonNegative
    price_micros: NonNegative
    currency: ShortText
    issued_at: ShortText
    previous: Hex256
    hash: Hex256
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class Charge(Record):
    """What one request cost."""

    forwards: NonNegative
    queries: NonNegative
    price_micros: NonNegative
    receipt: Receipt | None = None


class UsageReply(Record):
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


class ReceiptsReply(Record):
    """A page of the account's receipts in order; `next_after` is the sequence to ask from, null at the end."""

    receipts: list[Receipt]
    next_after: int | None = None


def loss_cost(candidates: int, samples: int) -> tuple[int, int]:
    """Return (forwards, queries) of a loss request: one forward a sample and candidate, one query a candidate."""
    return candidates * samples, candidates


def images_cost(items: int, num_inference_steps: int, guidance_scale: float) -> tuple[int, int]:
    """Return (forwards, queries) of an images request: steps an image, twice with guidance (`guidance_scale` > 1)."""
    return items * num_inference_steps * (2 if guidance_scale > 1 else 1), items
