"""The records of the wire: what is asked, what one try did, and what came back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Attempt", "Call", "Effect", "Reply"]

Effect = Literal["done", "none", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One thing to ask: a path under the host's address, the body's bytes and the key, the same for every attempt.

    `max_reply_bytes` bounds the reply's body. `headers` are sent besides the transport's own, in their place where
    both name one. A call that is not `idempotent` is tried again only where the failed attempt certainly had no effect.
    `effects` says which statuses tell otherwise of that than usual, at hosts behind a proxy of their own.
    """

    method: str
    path: str
    body: bytes | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    max_reply_bytes: int = 1_048_576
    idempotent: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    effects: Mapping[int, Effect] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An accepted reply (status 2xx), its body whole and within bounds; `headers` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What one try on the wire did.

    `error` is None or the kind of failure: a problem's code, `status`, `connect`, `timeout`, `connection` or
    `malformed`. `effect` says whether the host acted on it: `done`, `none` (certainly not), or `unknown`.
    `started_at` is in seconds since the epoch, `latency` and `retry_after` in seconds, `bytes_up` and `bytes_down`
    count bodies.
    """

    number: int
    idempotency_key: str | None
    method: str
    path: str
    started_at: float
    latency: float
    status: int | None
    error: str | None
    effect: Effect
    bytes_up: int
    bytes_down: int
    request_id: str | None
    retry_after: float | None
    replayed: bool
