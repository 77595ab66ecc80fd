"""What the search needs of a host: the `Endpoint` protocol; its HTTP form is `blackbox_ti.http_endpoint`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.wire import ImagesReply, ImagesRequest, LossReply, LossRequest, ModelCard, UsageReply

__all__ = ["Endpoint", "Guarantees", "RemoteEndpoint", "Vocabulary", "guarantees_of"]


@dataclass(frozen=True)
class Vocabulary:
    """An encoder's token table: `tokens` (V) and `embeddings` (V, D) float32."""

    tokens: Sequence[str]
    embeddings: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Guarantees:
    """What a host holds to; an endpoint without a `guarantees` of its own has them all.

    `idempotency`: a call repeated under its key has an effect once. `exact_cost`: the reply says what was charged.
    `receipts`: each charge comes with the host's signed word for it. Without idempotency an attempt whose outcome is
    not known is never repeated and counts as spent, so that the cap on what is sent holds all the same.
    """

    idempotency: bool = True
    exact_cost: bool = True
    receipts: bool = True


class Endpoint(Protocol):
    """A host that turns embeddings into losses or images.

    `label` says what a charged call is for, as the books print it: `initialise`, `search/<generation>`,
    `heldout/<generation>`, `pictures`. `key` is the call's idempotency key: the same key and request is the same
    call, however often it is made; without one a fresh key is drawn. All methods raise `EndpointError`s.
    """

    def describe(self) -> ModelCard:
        """Return the model card."""
        ...

    def register_concept(self, images: Sequence[bytes]) -> str:
        """Send the reference images (PNG, JPEG or WebP files) and return the concept's id."""
        ...

    def delete_concept(self, concept: str) -> None:
        """Remove the concept from the host; removing it twice is no error."""
        ...

    def losses(self, request: LossRequest, *, label: str, key: str | None = None) -> LossReply:
        """Score every candidate on every sample."""
        ...

    def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
        """Make pictures."""
        ...

    def vocabulary(self, encoder: str) -> Vocabulary | None:
        """Return an encoder's token table, or None where the host does not offer it."""
        ...

    def usage(self) -> UsageReply:
        """Return what the account spent."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class RemoteEndpoint(Endpoint, Protocol):
    """An endpoint with an address."""

    @property
    def url(self) -> str:
        """The host's address, without a trailing slash."""
        ...


def guarantees_of(endpoint: object) -> Guarantees:
    """Return what the host behind `endpoint` holds to."""
    found = getattr(endpoint, "guarantees", None)
    return found if isinstance(found, Guarantees) else Guarantees()
