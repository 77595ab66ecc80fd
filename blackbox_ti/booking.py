"""The life of one charged call in a run's book: reserved, sent, and settled whichever way it ends.

A host keeps its replies for a day at least. What was first sent longer ago is not sent again under its key, which the
host may have forgotten: the host's receipts say whether it was charged. If not, it is asked as a new operation; if so,
its reply is lost, the charge stays in the book, and it is asked and paid for once more under the name with a `~`.
At a host that knows no keys nothing is sent twice under one reservation: what was lost on the way or interrupted there
counts as spent in full, and is asked anew in the same way, a few times, each within the caps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar, runtime_checkable

import numpy as np

from blackbox_ti.budget import cost_of
from blackbox_ti.endpoint import guarantees_of
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
from blackbox_ti.wire import ImagesReply, LossReply, Receipt

__all__ = ["Booking"]

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


class Booking:
    """Books calls to the host behind `endpoint` in `ledger`, by what that host guarantees.

    `sleep` waits so many seconds before what was lost is asked anew; `rng` draws how many.
    """

    def __init__(
        self,
        endpoint: object,
        ledger: Ledger,
        *,
        sleep: Callable[[float], None],
        rng: np.random.Generator | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._ledger = ledger
        self._sleep = sleep
        self._rng = rng if rng is not None else np.random.default_rng()

    def ask(self, kind: type[R], name: str, reserve: Callable[[str], Operation], send: Callable[[str], R]) -> R:
        """Return the reply to the call `name`: the ledger's, or what `send` brings under the operation's key.

        `reserve` books a name. What is lost on the way from a host that knows no keys is asked anew.
        """
        for number in range(1, _LOST_TRIES):
            operation = self._reserve(name, reserve)
            try:
                return self._answer(kind, operation, send)
            except _PASSING:
                if not self._is_lost(operation):
                    raise
            self._sleep(backoff(number, None, RetryPolicy(), self._rng))
        return self._answer(kind, self._reserve(name, reserve), send)

    @property
    def _knows_keys(self) -> bool:
        return guarantees_of(self._endpoint).idempotency

    def _is_lost(self, operation: Operation) -> bool:
        """Return whether a failed call counts as spent, its reply being out of reach."""
        now = None if self._knows_keys else self._ledger.find(operation.name)
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
        return not self._knows_keys or self._ledger.seconds_since_first_sent(operation) > _REPLY_KEPT_SECONDS

    def _give_up(self, operation: Operation) -> str:
        """Settle a stale operation by the host's receipts, and return the name to ask under instead.

        Where the host knows no keys, it counts as spent in full.
        """
        if not self._knows_keys:
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
        charged = cost_of(found[0])
        self._ledger.settle(operation, charged=charged, reply=None, receipt=canonical_bytes(found[0]).decode())
        return operation.name + "~"

    def _answer(self, kind: type[R], operation: Operation, send: Callable[[str], R]) -> R:
        """Return the reply the ledger holds, or send, and settle whichever way it ends."""
        if operation.reply is not None:
            return _stored(kind, operation.name, operation.reply)
        try:
            reply = send(operation.idempotency_key)
        except BlackboxTIError as error:
            self._book_failure(operation, error)
            raise
        receipt = reply.charge.receipt
        self._ledger.settle(
            operation,
            charged=cost_of(reply.charge),
            reply=canonical_bytes(reply),
            receipt=None if receipt is None else canonical_bytes(receipt).decode(),
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
        elif self._knows_keys:
            self._ledger.leave_unknown(operation, reason)
        else:
            self._ledger.settle(operation, charged=operation.cost, reply=None, receipt=None)


def _stored(kind: type[R], name: str, reply: bytes) -> R:
    try:
        return kind.model_validate_json(reply)
    except ValueError as error:
        raise LedgerError(f"the ledger's reply for call {name} does not decode; run the audit") from error
