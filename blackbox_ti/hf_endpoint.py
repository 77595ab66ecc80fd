"""A Hugging Face Inference Endpoint that serves our `handler.py`, as an `Endpoint`.

Every question is `POST /` with `{"inputs": record, "parameters": {"task": ...}}`, and every answer a JSON object with
the `reply` or the `problem` (`server_stub.hosting.huggingface.handler` draws the contract).

What such a host does not guarantee: a replica remembers replies by their key only while it lives, so a charged call
whose outcome is not known is never repeated here; the host is paid by the hour, so no reply states a price; nothing is
signed. While it starts, or comes back from zero replicas, its proxy answers 503 without acting, and is waited for.
Source: huggingface.co/docs/inference-endpoints, "Create custom Inference Handler" and "Autoscaling".
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, Unpack

from pydantic import BaseModel, ConfigDict

from blackbox_ti.attempt import Call, Effect, Reply
from blackbox_ti.endpoint import Guarantees, Vocabulary
from blackbox_ti.errors import ProtocolError, RejectedError
from blackbox_ti.problems import ProblemInReply, has_code
from blackbox_ti.remote import Remote, TransportArguments, check_version, key_or_fresh, told_as
from blackbox_ti.replies import canonical_bytes, check_images_reply, check_loss_reply, parse_record
from blackbox_ti.reply_bounds import PAGE_BYTES, RECORD_BYTES, images_bound, losses_bound
from blackbox_ti.retry import RetryPolicy
from blackbox_ti.tally import Tally
from blackbox_ti.vocabulary_pages import read_vocabulary
from blackbox_ti.wire import (
    ConceptReply,
    ConceptRequest,
    ImagesReply,
    ImagesRequest,
    LossReply,
    LossRequest,
    ModelCard,
    Problem,
    ProblemCode,
    UsageReply,
    VocabularyReply,
    concept_digest,
)

__all__ = ["HfEndpoint"]

R = TypeVar("R", bound=BaseModel)
C = TypeVar("C", LossReply, ImagesReply)
T = TypeVar("T")

# The proxy's 503 is about starting a replica; the handler's own refusals come inside a reply. A 400 is an exception
# that left the handler, which may have been at work.
_EFFECTS: Final[Mapping[int, Effect]] = {503: "none", 400: "unknown"}


class _Envelope(BaseModel):
    """What the handler returns."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    reply: dict[str, Any] | None = None
    problem: Problem | None = None


class HfEndpoint(Remote[ModelCard]):
    """The endpoint at `url`, safe from many threads; every method raises the typed errors of `Transport.send`.

    `api_key` is a Hugging Face token. `on_attempt` hears of every try on the wire. The rest are `Transport`'s.
    """

    guarantees = Guarantees(idempotency=False, exact_cost=False, receipts=False)

    def __init__(self, url: str, **transport: Unpack[TransportArguments]) -> None:
        super().__init__(url, **transport)
        self._pictures: dict[str, list[str]] = {}
        self._tally = Tally()

    def describe(self) -> ModelCard:
        """Return the model card, asked afresh; a host that is starting is waited for.

        Raises:
            ProtocolError: what answers there is no such handler, or speaks another version of the protocol.
        """
        with told_as(f"no Blackbox TI handler: {self.url}; put handler.py into the model's repository"):
            card = self._free(ModelCard, "model", policy=self._patience())
        check_version(card, self.url)
        self._learned = card
        return card

    def register_concept(self, images: Sequence[bytes]) -> str:
        """Send the reference images (PNG, JPEG or WebP files) and return the digest that names them."""
        files = [base64.b64encode(image).decode("ascii") for image in images]
        concept = concept_digest(images)

        def check(reply: ConceptReply) -> None:
            if (reply.concept, reply.images) != (concept, len(images)):
                raise ProtocolError("the host registered other pictures than those sent")

        self._free(ConceptReply, "concepts", ConceptRequest(images=files), check=check)
        self._pictures[concept] = files
        return concept

    def delete_concept(self, concept: str) -> None:
        """Remove the concept from the replica that answers; others drop it when they end."""
        self._pictures.pop(concept, None)
        self._send(
            Call(method="POST", path="/", body=_body({"concept": concept}, task="delete_concept")), lambda _: None
        )

    def losses(self, request: LossRequest, *, label: str, key: str | None = None) -> LossReply:
        """Score every candidate on every sample; pictures a replica does not know are sent with the same request."""
        del label
        card = self._known()
        bound = losses_bound(request)
        key = key_or_fresh(key)

        def ask(**more: Any) -> LossReply:
            return self._charged(
                LossReply, "loss", request, key, bound, lambda reply: check_loss_reply(request, reply, card), **more
            )

        try:
            return ask()
        except RejectedError as error:
            lost = has_code(error, {ProblemCode.CONCEPT_NOT_FOUND})
            if not lost or request.concept not in self._pictures:
                raise
            return ask(pictures=self._pictures[request.concept])

    def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
        """Make pictures."""
        del label
        card = self._known()
        bound = images_bound(request, card.limits)
        key = key_or_fresh(key)
        return self._charged(
            ImagesReply, "images", request, key, bound, lambda reply: check_images_reply(request, reply, card)
        )

    def vocabulary(self, encoder: str) -> Vocabulary | None:
        """Return an encoder's token table, or None where the host does not offer it."""

        def ask(offset: int) -> VocabularyReply:
            inputs = {"encoder": encoder, "offset": offset}
            return self._free(VocabularyReply, "vocabulary", inputs, max_reply_bytes=PAGE_BYTES)

        return read_vocabulary(ask, encoder, self._known(), absent={ProblemCode.NOT_OFFERED})

    def usage(self) -> UsageReply:
        """Return what was done for this client object by its own count: the host keeps no book."""
        return self._tally.usage("counted by the client", self._known().prices.currency)

    def _send(self, call: Call, parse: Callable[[dict[str, Any]], T], *, policy: RetryPolicy | None = None) -> T:
        return self._transport.send(call, lambda reply: parse(_opened(reply)), policy=policy)

    def _free(
        self,
        kind: type[R],
        task: str,
        inputs: BaseModel | Mapping[str, Any] | None = None,
        *,
        check: Callable[[R], None] = lambda _: None,
        policy: RetryPolicy | None = None,
        max_reply_bytes: int = RECORD_BYTES,
    ) -> R:
        """Ask what costs nothing and may be repeated."""
        call = Call(method="POST", path="/", body=_body(inputs or {}, task=task), max_reply_bytes=max_reply_bytes)

        def parse(reply: dict[str, Any]) -> R:
            record = parse_record(kind, canonical_bytes(reply))
            check(record)
            return record

        return self._send(call, parse, policy=policy)

    def _charged(
        self,
        kind: type[C],
        task: str,
        request: BaseModel,
        key: str,
        max_reply_bytes: int,
        check: Callable[[C], None],
        **more: Any,
    ) -> C:
        """Ask once; only an attempt that certainly had no effect is repeated."""
        call = Call(
            method="POST",
            path="/",
            body=_body(request, task=task, idempotency_key=key, **more),
            idempotency_key=key,
            max_reply_bytes=max_reply_bytes,
            idempotent=False,
            effects=_EFFECTS,
        )

        def parse(plain: dict[str, Any]) -> C:
            reply = parse_record(kind, canonical_bytes(plain))
            check(reply)
            return reply

        reply = self._send(call, parse)
        self._tally.count(reply.charge)
        return reply


def _body(inputs: BaseModel | Mapping[str, Any], **parameters: Any) -> bytes:
    plain = inputs.model_dump(mode="json") if isinstance(inputs, BaseModel) else dict(inputs)
    return canonical_bytes({"inputs": plain, "parameters": parameters})


def _opened(reply: Reply) -> dict[str, Any]:
    """Return the record in the handler's answer.

    Raises:
        ProblemInReply: it is a refusal.
        ProtocolError: it is neither.
    """
    envelope = parse_record(_Envelope, reply.body)
    problem = envelope.problem
    if problem is not None and 400 <= problem.status < 600:
        raise ProblemInReply(problem)
    if envelope.reply is None:
        raise ProtocolError("the host's answer is not our handler's; put handler.py into the model's repository")
    return envelope.reply
