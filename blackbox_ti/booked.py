"""An `Endpoint` that books every charged call in a ledger before it is sent.

A call's name is its `key`, or `<label>#<n>` for the n-th call of that label without one. A deterministic search makes
the same calls under the same names however often the run is repeated, so resuming is replaying: a name the ledger has
settled is answered from the ledger; one whose outcome is not known is sent again under the same idempotency key; one
with other bytes than before is a `ResumeError`. Names counted by label need the calls of a label to come in order,
from one thread at a time; calls made side by side carry their own keys.

The key sent to the host is derived from the run's id and the name, so that runs sharing an account never collide.
A host keeps its replies for a day at least. What was first sent longer ago is not sent again under its key, which the
host may have forgotten: the host's receipts say whether it was charged. If not, it is asked as a new operation; if so,
its reply is lost, the charge stays in the book, and it is asked and paid for once more under the name with a `~`.
At a host that knows no keys nothing is sent twice under one reservation: what was lost on the way or interrupted there
counts as spent in full, and is asked anew in the same way, a few times, each within the caps.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import numpy as np

from blackbox_ti.budget import Cost, cost_of_images, cost_of_losses
from blackbox_ti.endpoint import Endpoint, Guarantees, Vocabulary, guarantees_of
from blackbox_ti.errors import (
    AuthError,
    BlackboxTIError,
    BudgetSpentError,
    ConnectError,
    InputError,
    LedgerError,
    OverloadedError,
    ProtocolError,
    RejectedError,
    ResumeError,
)
from blackbox_ti.ledger import Ledger, Operation
from blackbox_ti.replies import canonical_bytes
from blackbox_ti.retry import RetryPolicy, backoff
from blackbox_ti.wire import (
    ImagesReply,
    ImagesRequest,
    LossReply,
    LossRequest,
    ModelCard,
    ProblemCode,
    Receipt,
    UsageReply,
)

__all__ = ["BookedEndpoint"]

R = TypeVar("R", LossReply, ImagesReply)

_REFUSALS = (InputError, BudgetSpentError, AuthError, RejectedError)
_PASSING = (ConnectError, OverloadedError, ProtocolError)
_LOST_TRIES: Final = 4
_REPLY_KEPT_SECONDS: Final = 86_400.0


@runtime_checkable
class _HasReceipts(Protocol):
    """An endpoint whose host shows the account's receipts."""

    def receipts(self) -> Sequence[Receipt]:
        """Return every receipt of the account."""
        ...


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
        self._sleep = sleep
        self._rng = rng if rng is not None else np.random.default_rng()
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
        candidates = next(iter(request.embeddings.values())).shape[0]
        cost = cost_of_losses(candidates, len(request.samples), self._known_card().prices)

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
        """Reserve, send and settle; what is lost on the way from a host that knows no keys is asked anew."""
        plain: dict[str, Any] = request.model_dump(mode="json")
        name = key if key is not None else self._next_name(label)

        def reserve(name: str) -> Operation:
            return self._ledger.reserve(name=name, label=label, route=route, request=plain, cost=cost)

        for number in range(1, _LOST_TRIES):
            operation = self._reserve(name, reserve)
            try:
                return self._answer(kind, operation, send)
            except _PASSING:
                if not self._is_lost(operation):
                    raise
            self._sleep(backoff(number, None, RetryPolicy(), self._rng))
        return self._answer(kind, self._reserve(name, reserve), send)

    def _is_lost(self, operation: Operation) -> bool:
        """Return whether a failed call counts as spent, its reply being out of reach."""
        now = None if self.guarantees.idempotency else self._ledger.find(operation.name)
        return now is not None and now.state == "settled" and not now.answered

    def _reserve(self, name: str, reserve: Callable[[str], Operation]) -> Operation:
        """Return the operation `name`, or the one that is asked in its stead."""
        operation = reserve(name)
        while self._is_stale(operation):
            name = self._give_up(operation)
            operation = reserve(name)
        return operation

    def _is_stale(self, operation: Operation) -> bool:
        """Return whether the host may not know the key of an operation that is to be sent again."""
        if operation.fresh or operation.reply is not None:
            return False
        if not self.guarantees.idempotency:
            return True
        return self._ledger.seconds_since_first_sent(operation) > _REPLY_KEPT_SECONDS

    def _give_up(self, operation: Operation) -> str:
        """Settle a stale operation by the host's receipts, and return the name to ask under instead.

        Where the host knows no keys, it counts as spent in full.
        """
        if not self.guarantees.idempotency:
            self._ledger.settle(operation, charged=operation.cost, reply=None, receipt=None)
            return operation.name + "~"
        if not isinstance(self._endpoint, _HasReceipts):
            raise ResumeError(
                f"call {operation.name} was interrupted over a day ago, and the host shows no receipts to tell whether "
                "it was charged; begin a new run in another folder"
            )
        found = [r for r in self._endpoint.receipts() if r.idempotency_key == operation.idempotency_key]
        if not found:
            self._ledger.refuse(operation, "the host has no receipt for it after a day")
            return operation.name
        charged = Cost(found[0].forwards, found[0].queries, found[0].price_micros)
        self._ledger.settle(operation, charged=charged, reply=None, receipt=canonical_bytes(found[0]).decode())
        return operation.name + "~"

    def _next_name(self, label: str) -> str:
        with self._lock:
            self._calls[label] += 1
            return f"{label}#{self._calls[label]}"

    def _answer(self, kind: type[R], operation: Operation, send: Callable[[str], R]) -> R:
        """Return the reply the ledger holds, or send, and settle whichever way it ends."""
        if operation.reply is not None:
            return _stored(kind, operation.name, operation.reply)
        try:
            reply = send(operation.idempotency_key)
        except BlackboxTIError as error:
            self._book_failure(operation, error)
            raise
        charge = reply.charge
        self._ledger.settle(
            operation,
            charged=Cost(charge.forwards, charge.queries, charge.price_micros),
            reply=canonical_bytes(reply),
            receipt=None if charge.receipt is None else canonical_bytes(charge.receipt).decode(),
        )
        return reply

    def _book_failure(self, operation: Operation, error: BlackboxTIError) -> None:
        """Free the reservation only where the host certainly did not charge: otherwise it stays, or counts as spent.

        Certain is a refusal of a reservation made just now, none of whose attempts can have had an effect.
        """
        reason = type(error).__name__
        effects = self._ledger.effects_of(operation.idempotency_key)
        refused = all(effect == "none" for effect in effects) if effects else isinstance(error, _REFUSALS)
        if operation.fresh and refused:
            self._ledger.refuse(operation, reason)
        elif self.guarantees.idempotency:
            self._ledger.leave_unknown(operation, reason)
        else:
            self._ledger.settle(operation, charged=operation.cost, reply=None, receipt=None)

    def _with_concept(self, concept: str, send: Callable[[], LossReply]) -> LossReply:
        """Send; where the host has lost the concept, register its pictures again and send once more."""
        try:
            return send()
        except RejectedError as error:
            lost = error.problem is not None and error.problem.code == ProblemCode.CONCEPT_NOT_FOUND
            if not lost or concept not in self._pictures:
                raise
            self.register_concept(self._pictures[concept])
            return send()


def _stored(kind: type[R], name: str, reply: bytes) -> R:
    try:
        return kind.model_validate_json(reply)
    except ValueError as error:
        raise LedgerError(f"the ledger's reply for call {name} does not decode; run the audit") from error
