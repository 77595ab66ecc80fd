"""A host that speaks the protocol over HTTP, as an `Endpoint`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Final, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from blackbox_ti.attempt import Call
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import ProtocolError, RejectedError
from blackbox_ti.problems import has_code
from blackbox_ti.remote import Remote, check_version, key_or_fresh, told_as
from blackbox_ti.replies import canonical_bytes, check_images_reply, check_loss_reply, check_receipt, parse_record
from blackbox_ti.reply_bounds import PAGE_BYTES, RECORD_BYTES, images_bound, losses_bound
from blackbox_ti.retry import RetryPolicy
from blackbox_ti.vocabulary_pages import read_vocabulary
from blackbox_ti.wire import (
    ConceptReply,
    ConceptRequest,
    ImagesReply,
    ImagesRequest,
    LossReply,
    LossRequest,
    ModelCard,
    ProblemCode,
    Receipt,
    ReceiptsReply,
    UsageReply,
    VocabularyReply,
)

__all__ = ["HttpEndpoint"]

R = TypeVar("R", bound=BaseModel)

_MAX_RECEIPTS: Final = 10_000_000
_NOT_OFFERED: Final = frozenset({ProblemCode.NOT_OFFERED, ProblemCode.NOT_FOUND, ProblemCode.FORBIDDEN})


class HttpEndpoint(Remote[ModelCard]):
    """A host at `url`; every method raises the typed errors of `Transport.send` and is safe from many threads.

    `on_attempt` hears of every try on the wire. The other arguments are `Transport`'s.
    """

    def describe(self) -> ModelCard:
        """Return the model card, asked afresh.

        A wrong address is found out soon: until the host has answered once, three tries are all it gets.

        Raises:
            ProtocolError: what answers is not a Blackbox TI endpoint, or speaks another version of the protocol.
        """
        with told_as(f"not a Blackbox TI endpoint: {self.url}; check the address"):
            card = self._get(ModelCard, "/v1/model", policy=self._patience())
        check_version(card, self.url)
        self._learned = card
        return card

    def register_concept(self, images: Sequence[bytes]) -> str:
        """Send the reference images (PNG, JPEG or WebP files) and return the concept's id."""
        request = ConceptRequest(images=[base64.b64encode(image).decode("ascii") for image in images])
        call = Call(method="POST", path="/v1/concepts", body=canonical_bytes(request), max_reply_bytes=RECORD_BYTES)

        def parse(body: bytes) -> ConceptReply:
            reply = parse_record(ConceptReply, body)
            if reply.images != len(images) or not reply.concept:
                raise ProtocolError(f"the host registered {reply.images} of {len(images)} pictures")
            return reply

        return self._transport.send(call, lambda reply: parse(reply.body)).concept

    def delete_concept(self, concept: str) -> None:
        """Remove the concept from the host; removing it twice is no error."""
        call = Call(method="DELETE", path=f"/v1/concepts/{quote(concept, safe='')}")
        try:
            self._transport.send(call, lambda _: None)
        except RejectedError as error:
            if not has_code(error, {ProblemCode.CONCEPT_NOT_FOUND}):
                raise

    def losses(self, request: LossRequest, *, label: str, key: str | None = None) -> LossReply:
        """Score every candidate on every sample."""
        del label
        card = self._known()
        bound = losses_bound(request)

        def check(reply: LossReply, key: str, body: bytes) -> None:
            check_loss_reply(request, reply, card)
            check_receipt(reply.charge, key=key, body=body, card=card)

        return self._charged(LossReply, "/v1/loss", request, key=key, max_reply_bytes=bound, check=check)

    def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
        """Make pictures."""
        del label
        card = self._known()
        bound = images_bound(request, card.limits)

        def check(reply: ImagesReply, key: str, body: bytes) -> None:
            check_images_reply(request, reply, card)
            check_receipt(reply.charge, key=key, body=body, card=card)

        return self._charged(ImagesReply, "/v1/images", request, key=key, max_reply_bytes=bound, check=check)

    def vocabulary(self, encoder: str) -> Vocabulary | None:
        """Return an encoder's token table, or None where the host does not offer it."""

        def ask(offset: int) -> VocabularyReply:
            path, at = "/v1/vocabulary", str(offset)
            return self._get(VocabularyReply, path, max_reply_bytes=PAGE_BYTES, encoder=encoder, offset=at)

        return read_vocabulary(ask, encoder, self._known(), absent=_NOT_OFFERED)

    def usage(self) -> UsageReply:
        """Return what the account spent."""
        return self._get(UsageReply, "/v1/usage")

    def receipts(self) -> list[Receipt]:
        """Return every receipt of the account, in order of their sequence."""
        receipts: list[Receipt] = []
        after: int | None = 0
        while after is not None:
            page = self._get(ReceiptsReply, "/v1/receipts", max_reply_bytes=PAGE_BYTES, after=str(after))
            receipts += page.receipts
            if page.next_after is not None and (page.next_after <= after or len(receipts) > _MAX_RECEIPTS):
                raise ProtocolError("the host's receipts do not come to an end")
            after = page.next_after
        return receipts

    def _get(
        self,
        kind: type[R],
        path: str,
        *,
        policy: RetryPolicy | None = None,
        max_reply_bytes: int = RECORD_BYTES,
        **query: str,
    ) -> R:
        call = Call(method="GET", path=path, query=query, max_reply_bytes=max_reply_bytes)
        return self._transport.send(call, lambda reply: parse_record(kind, reply.body), policy=policy)

    def _charged(
        self,
        kind: type[R],
        path: str,
        request: BaseModel,
        *,
        key: str | None,
        max_reply_bytes: int,
        check: Callable[[R, str, bytes], None],
    ) -> R:
        body = canonical_bytes(request)
        key = key_or_fresh(key)
        call = Call(method="POST", path=path, body=body, idempotency_key=key, max_reply_bytes=max_reply_bytes)

        def parse(raw: bytes) -> R:
            reply = parse_record(kind, raw)
            check(reply, key, body)
            return reply

        return self._transport.send(call, lambda reply: parse(reply.body))
