"""A host that speaks the protocol over HTTP, as an `Endpoint`."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
from pydantic import BaseModel, SecretStr

from blackbox_ti.attempt import Attempt, Call
from blackbox_ti.connection import ConnectionOptions
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import AuthError, ProtocolError, RejectedError
from blackbox_ti.replies import (
    canonical_bytes,
    check_images_reply,
    check_loss_reply,
    check_receipt,
    check_vocabulary_page,
    parse_record,
)
from blackbox_ti.retry import RetryPolicy
from blackbox_ti.transport import Transport
from blackbox_ti.wire import (
    PROTOCOL_VERSION,
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
    decode_tensor,
)

__all__ = ["HttpEndpoint"]

R = TypeVar("R", bound=BaseModel)

_RECORD_BYTES: Final = 1_048_576
_PAGE_BYTES: Final = 67_108_864
_MAX_RECEIPTS: Final = 10_000_000
_BYTES_PER_LOSS: Final = 6
_BYTES_PER_CANDIDATE: Final = 13_000
_NOT_OFFERED: Final = frozenset({ProblemCode.NOT_OFFERED, ProblemCode.NOT_FOUND, ProblemCode.FORBIDDEN})


class HttpEndpoint:
    """A host at `url`; every method raises the typed errors of `Transport.send` and is safe from many threads.

    `on_attempt` hears of every try on the wire. The other arguments are `Transport`'s.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: SecretStr | str | None = None,
        options: ConnectionOptions | None = None,
        policy: RetryPolicy | None = None,
        http: httpx.BaseTransport | None = None,
        on_attempt: Callable[[Attempt], None] | None = None,
        rng: np.random.Generator | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = Transport(
            url,
            api_key=SecretStr(api_key) if isinstance(api_key, str) else api_key,
            options=options,
            policy=policy,
            http=http,
            on_attempt=on_attempt,
            rng=rng,
            sleep=sleep,
            clock=clock,
        )
        self._card: ModelCard | None = None

    @property
    def url(self) -> str:
        """The host's address, without a trailing slash."""
        return self._transport.url

    def describe(self) -> ModelCard:
        """Return the model card, asked afresh.

        A wrong address is found out soon: until the host has answered once, three tries are all it gets.

        Raises:
            ProtocolError: what answers is not a Blackbox TI endpoint, or speaks another version of the protocol.
        """
        policy = self._transport.policy
        patience = policy if self._transport.answered else replace(policy, max_malformed=3, max_unreachable=3)
        try:
            card = self._get(ModelCard, "/v1/model", policy=patience)
        except (ProtocolError, RejectedError) as error:
            message = f"not a Blackbox TI endpoint: {self.url}; check the address ({error})"
            raise ProtocolError(message, problem=error.problem) from error
        if card.protocol_version != PROTOCOL_VERSION:
            raise ProtocolError(f"{self.url} speaks another version of the protocol than {PROTOCOL_VERSION}")
        self._card = card
        return card

    def register_concept(self, images: Sequence[bytes]) -> str:
        """Send the reference images (PNG, JPEG or WebP files) and return the concept's id."""
        request = ConceptRequest(images=[base64.b64encode(image).decode("ascii") for image in images])
        call = Call(method="POST", path="/v1/concepts", body=canonical_bytes(request), max_reply_bytes=_RECORD_BYTES)

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
            if error.problem is None or error.problem.code != ProblemCode.CONCEPT_NOT_FOUND:
                raise

    def losses(self, request: LossRequest, *, label: str, key: str | None = None) -> LossReply:
        """Score every candidate on every sample."""
        del label
        card = self._known_card()
        candidates = next(iter(request.embeddings.values())).shape[0]
        bound = _RECORD_BYTES + candidates * (_BYTES_PER_CANDIDATE + _BYTES_PER_LOSS * len(request.samples))

        def check(reply: LossReply, key: str, body: bytes) -> None:
            check_loss_reply(request, reply, card)
            check_receipt(reply.charge, key=key, body=body, card=card)

        return self._charged(LossReply, "/v1/loss", request, key=key, max_reply_bytes=bound, check=check)

    def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
        """Make pictures."""
        del label
        card = self._known_card()
        bound = _RECORD_BYTES + len(request.items) * (_BYTES_PER_CANDIDATE + card.limits.max_image_bytes * 4 // 3)

        def check(reply: ImagesReply, key: str, body: bytes) -> None:
            check_images_reply(request, reply, card)
            check_receipt(reply.charge, key=key, body=body, card=card)

        return self._charged(ImagesReply, "/v1/images", request, key=key, max_reply_bytes=bound, check=check)

    def vocabulary(self, encoder: str) -> Vocabulary | None:
        """Return an encoder's token table, or None where the host does not offer it."""
        try:
            pages = list(self._vocabulary_pages(encoder))
        except (RejectedError, AuthError) as error:
            if error.problem is not None and error.problem.code in _NOT_OFFERED:
                return None
            raise
        tokens = tuple(token for page in pages for token in page.tokens)
        return Vocabulary(tokens, np.concatenate([decode_tensor(page.embeddings) for page in pages]))

    def usage(self) -> UsageReply:
        """Return what the account spent."""
        return self._get(UsageReply, "/v1/usage")

    def receipts(self) -> list[Receipt]:
        """Return every receipt of the account, in order of their sequence."""
        receipts: list[Receipt] = []
        after: int | None = 0
        while after is not None:
            page = self._get(ReceiptsReply, "/v1/receipts", max_reply_bytes=_PAGE_BYTES, after=str(after))
            receipts += page.receipts
            if page.next_after is not None and (page.next_after <= after or len(receipts) > _MAX_RECEIPTS):
                raise ProtocolError("the host's receipts do not come to an end")
            after = page.next_after
        return receipts

    def close(self) -> None:
        """Let go of connections."""
        self._transport.close()

    def _known_card(self) -> ModelCard:
        return self._card if self._card is not None else self.describe()

    def _get(
        self,
        kind: type[R],
        path: str,
        *,
        policy: RetryPolicy | None = None,
        max_reply_bytes: int = _RECORD_BYTES,
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
        key = key if key is not None else uuid.uuid4().hex
        call = Call(method="POST", path=path, body=body, idempotency_key=key, max_reply_bytes=max_reply_bytes)

        def parse(raw: bytes) -> R:
            reply = parse_record(kind, raw)
            check(reply, key, body)
            return reply

        return self._transport.send(call, lambda reply: parse(reply.body))

    def _vocabulary_pages(self, encoder: str) -> Iterator[VocabularyReply]:
        """Yield the pages of a token table, each checked to follow the one before."""
        dims = {e.name: e.dim for e in self._known_card().encoders}
        offset, total = 0, None
        while total is None or offset < total:
            page = self._get(
                VocabularyReply, "/v1/vocabulary", max_reply_bytes=_PAGE_BYTES, encoder=encoder, offset=str(offset)
            )
            total = page.total if total is None else total
            check_vocabulary_page(page, encoder=encoder, offset=offset, total=total, dim=dims.get(encoder))
            yield page
            offset += len(page.tokens)
