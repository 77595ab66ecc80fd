"""An `Endpoint` that books every charged call in a ledger before it is sent.

A call's name is its `key`, or `<label>#<n>` for the n-th call of that label without one. A deterministic search makes
the same calls under the same names however often the run is repeated, so resuming is replaying: a name the ledger has
settled is answered from the ledger; one whose outcome is not known is sent again under the same idempotency key; one
with other bytes than before is a `ResumeError`. Names counted by label need the calls of a label to come in order,
from one thread at a time; calls made side by side carry their own keys.

The key sent to the host is derived from the run's id and the name, so that runs sharing an account never collide.
What becomes of a call that was interrupted, or whose reply is lost, is `blackbox_ti.booking`'s.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from blackbox_ti.booking import Booking
from blackbox_ti.budget import Cost, cost_of_images, cost_of_losses
from blackbox_ti.endpoint import Endpoint, Guarantees, Vocabulary, guarantees_of
from blackbox_ti.errors import RejectedError
from blackbox_ti.ledger import Ledger, Operation
from blackbox_ti.problems import has_code
from blackbox_ti.replies import canonical_bytes, count_candidates
from blackbox_ti.wire import ImagesReply, ImagesRequest, LossReply, LossRequest, ModelCard, ProblemCode, UsageReply

__all__ = ["BookedEndpoint"]

R = TypeVar("R", LossReply, ImagesReply)


class BookedEndpoint:
    """`endpoint` with every charged call booked in `ledger`, whose run has begun.

    For the attempts on the wire to be in the book too, make the endpoint with `on_attempt=ledger.record_attempt`.
    Closing it closes the endpoint, not the ledger. `sleep` waits so many seconds before what was lost is asked anew;
    `rng` draws how many.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        ledger: Ledger,
        *,
        sleep: Callable[[float], None] = time.sleep,
        rng: np.random.Generator | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._ledger = ledger
        self._booking = Booking(endpoint, ledger, sleep=sleep, rng=rng)
        self._card: ModelCard | None = None
        self._calls: Counter[str] = Counter()
        self._pictures: dict[str, Sequence[bytes]] = {}
        self._lock = threading.Lock()

    @property
    def guarantees(self) -> Guarantees:
        """What the host holds to."""
        return guarantees_of(self._endpoint)

    def describe(self) -> ModelCard:
        """Return the model card, and record it with what the host holds to.

        Raises:
            ResumeError: the run began on another model.
        """
        card = self._endpoint.describe()
        self._ledger.record_guarantees(self.guarantees)
        self._ledger.record_model(card.fingerprint, canonical_bytes(card).decode())
        self._card = card
        return card

    def register_concept(self, images: Sequence[bytes]) -> str:
        """Send the reference images, and record their hashes with the id.

        Raises:
            ResumeError: the run began with other pictures, or the host gives them another id than before.
        """
        concept = self._endpoint.register_concept(images)
        self._ledger.record_concept(concept, [hashlib.sha256(image).hexdigest() for image in images])
        self._pictures[concept] = tuple(images)
        return concept

    def delete_concept(self, concept: str) -> None:
        """Remove the concept from the host."""
        self._endpoint.delete_concept(concept)

    def losses(self, request: LossRequest, *, label: str, key: str | None = None) -> LossReply:
        """Score every candidate on every sample, once however often it is asked.

        Raises:
            BudgetSpentError: a cap does not allow it; nothing was sent.
            ResumeError: the name was used for another request.
        """
        cost = cost_of_losses(count_candidates(request), len(request.samples), self._known_card().prices)

        def send(idempotency_key: str) -> LossReply:
            return self._endpoint.losses(request, label=label, key=idempotency_key)

        def send_again(idempotency_key: str) -> LossReply:
            return self._with_concept(request.concept, lambda: send(idempotency_key))

        return self._ask(LossReply, request, send_again, route="loss", label=label, key=key, cost=cost)

    def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
        """Make pictures, once however often they are asked for.

        Raises:
            BudgetSpentError: a cap does not allow it; nothing was sent.
            ResumeError: the name was used for another request.
        """
        prices = self._known_card().prices
        cost = cost_of_images(len(request.items), request.num_inference_steps, request.guidance_scale, prices)

        def send(idempotency_key: str) -> ImagesReply:
            return self._endpoint.images(request, label=label, key=idempotency_key)

        return self._ask(ImagesReply, request, send, route="images", label=label, key=key, cost=cost)

    def vocabulary(self, encoder: str) -> Vocabulary | None:
        """Return an encoder's token table, or None where the host does not offer it."""
        return self._endpoint.vocabulary(encoder)

    def usage(self) -> UsageReply:
        """Return what the account spent, by the host's book."""
        return self._endpoint.usage()

    def close(self) -> None:
        """Let go of connections."""
        self._endpoint.close()

    def _known_card(self) -> ModelCard:
        return self._card if self._card is not None else self.describe()

    def _ask(
        self,
        kind: type[R],
        request: LossRequest | ImagesRequest,
        send: Callable[[str], R],
        *,
        route: str,
        label: str,
        key: str | None,
        cost: Cost,
    ) -> R:
        plain: dict[str, Any] = request.model_dump(mode="json")
        name = key if key is not None else self._next_name(label)

        def reserve(name: str) -> Operation:
            return self._ledger.reserve(name=name, label=label, route=route, request=plain, cost=cost)

        return self._booking.ask(kind, name, reserve, send)

    def _next_name(self, label: str) -> str:
        with self._lock:
            self._calls[label] += 1
            return f"{label}#{self._calls[label]}"

    def _with_concept(self, concept: str, send: Callable[[], LossReply]) -> LossReply:
        """Send; where the host has lost the concept, register its pictures again and send once more."""
        try:
            return send()
        except RejectedError as error:
            lost = has_code(error, {ProblemCode.CONCEPT_NOT_FOUND})
            if not lost or concept not in self._pictures:
                raise
            self.register_concept(self._pictures[concept])
            return send()
