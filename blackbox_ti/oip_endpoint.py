"""A host that speaks the Open Inference Protocol, version 2, as an `Endpoint`: KServe, Triton, MLServer, ours.

Such hosts keep no concepts, so the pictures go with every request for losses. They know no idempotency keys, and do
not say what a call cost, unless they declare it among their extensions as our own server does: without that a call
whose outcome is not known is not repeated here, and the cost is what the request comes to.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr

from blackbox_ti.attempt import Attempt, Call, Reply
from blackbox_ti.connection import ConnectionOptions
from blackbox_ti.endpoint import Guarantees, Vocabulary
from blackbox_ti.errors import InputError, ProtocolError, RejectedError, WireError
from blackbox_ti.oip_card import CHARGE_EXTENSION, IDEMPOTENCY_EXTENSION, ModelKind, card_of, told_card
from blackbox_ti.oip_codec import decode_tensors
from blackbox_ti.oip_host import OipHost, infer_message, model_path
from blackbox_ti.oip_mapping import EncoderEntry, ImagesModel, LossModel, OipMapping, contract, signature_of
from blackbox_ti.oip_tensors import image_tensors, loss_tensors, losses_of, pictures_of, ranking_of
from blackbox_ti.oip_wire import HEADER_LENGTH_HEADER, InferReply, ModelMetadata, ServerMetadata, split_body
from blackbox_ti.replies import check_images_reply, check_loss_reply
from blackbox_ti.retry import RetryPolicy
from blackbox_ti.transport import Transport
from blackbox_ti.wire import (
    ImagesReply,
    ImagesRequest,
    LossReply,
    LossRequest,
    ModelCard,
    Rejection,
    UsageReply,
    encode_tensor,
    images_cost,
    loss_cost,
)

__all__ = ["OipEndpoint"]

T = TypeVar("T")
R = TypeVar("R", LossReply, ImagesReply)
Arrays = Mapping[str, NDArray[Any]]

_RECORD_BYTES: Final = 1_048_576
_BYTES_PER_LOSS: Final = 40
_BYTES_PER_CANDIDATE: Final = 13_000


class OipEndpoint:
    """A host at `url` whose tensors `mapping` names; every method raises `Transport.send`'s errors and is thread-safe.

    Without a mapping the host has to describe itself, as our own server does. The other arguments are `Transport`'s.
    """

    def __init__(
        self,
        url: str,
        *,
        mapping: OipMapping | None = None,
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
        self._mapping = mapping
        self._pictures: dict[str, Sequence[bytes]] = {}
        self._host: OipHost | None = None
        self._spent = [0, 0, 0]
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The host's address, without a trailing slash."""
        return self._transport.url

    @property
    def guarantees(self) -> Guarantees:
        """What the host declared; nothing before it was asked."""
        extensions = self._host.extensions if self._host is not None else frozenset()
        return Guarantees(
            idempotency=IDEMPOTENCY_EXTENSION in extensions, exact_cost=CHARGE_EXTENSION in extensions, receipts=False
        )

    def describe(self) -> ModelCard:
        """Return a model card from the mapping and the host's metadata, asked afresh.

        Raises:
            ProtocolError: what answers does not speak the protocol.
            InputError: the mapping and the metadata disagree, or leave something open; the message says what.
        """
        policy = self._transport.policy
        patience = policy if self._transport.answered else replace(policy, max_malformed=3, max_unreachable=3)
        try:
            server = self._get("/v2", ServerMetadata.parse, patience)
        except (ProtocolError, RejectedError, WireError) as error:
            message = f"{self.url} does not speak the Open Inference Protocol; check the address ({error})"
            raise ProtocolError(message, problem=getattr(error, "problem", None)) from error
        self._get("/v2/health/ready", lambda _: None, patience)
        self._host = self._described(server)
        return self._host.card

    def register_concept(self, images: Sequence[bytes]) -> str:
        """Keep the reference images, to be sent with each request for losses; nothing is sent now."""
        digest = hashlib.sha256(b"".join(hashlib.sha256(image).digest() for image in images)).hexdigest()
        self._pictures[digest] = tuple(images)
        return digest

    def delete_concept(self, concept: str) -> None:
        """Send the pictures no more."""
        self._pictures.pop(concept, None)

    def losses(self, request: LossRequest, *, label: str, key: str | None = None) -> LossReply:
        """Score every candidate on every sample."""
        del label
        host = self._known()
        model, signature = host.loss
        pictures = self._pictures.get(request.concept)
        if pictures is None:
            raise InputError("no such concept here; register its pictures first")
        candidates, n = next(iter(request.embeddings.values())).shape[0], len(request.samples)
        tensors = loss_tensors(request, pictures, model, signature, host.card.resolution)
        bound = _RECORD_BYTES + candidates * (_BYTES_PER_CANDIDATE + _BYTES_PER_LOSS * n)

        def reply(outputs: Arrays, parameters: Mapping[str, Any]) -> LossReply:
            kept, answer = _answer(outputs, model, candidates, n)
            exact = loss_cost(len(kept), n)
            rejected = _rejections(set(range(candidates)) - set(kept))
            made = LossReply(candidates=kept, rejected=rejected, charge=host.charge(exact), **answer)
            check_loss_reply(request, made, host.card)
            charge = host.charged(parameters, exact=exact, sent=loss_cost(candidates, n))
            return made.model_copy(update={"charge": charge})

        return self._infer(model, tensors, reply, key=key, max_reply_bytes=bound)

    def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
        """Make pictures."""
        del label
        host = self._known()
        model, signature = host.images
        tensors = image_tensors(request, model, signature, host.card.resolution)
        items, limits = request.items, host.card.limits
        bound = _RECORD_BYTES + len(items) * (_BYTES_PER_CANDIDATE + limits.max_image_bytes * 4 // 3)

        def reply(outputs: Arrays, parameters: Mapping[str, Any]) -> ImagesReply:
            files = pictures_of(outputs, model, len(items), limits.max_image_pixels)
            absent = {item.candidate for item, file in zip(items, files, strict=True) if file is None}
            exact = _cost(request, sum(file is not None for file in files))
            made = ImagesReply(
                images=[None if file is None else base64.b64encode(file).decode("ascii") for file in files],
                rejected=_rejections(absent),
                charge=host.charge(exact),
            )
            check_images_reply(request, made, host.card)
            charge = host.charged(parameters, exact=exact, sent=_cost(request, len(items)))
            return made.model_copy(update={"charge": charge})

        return self._infer(model, tensors, reply, key=key, max_reply_bytes=bound)

    def vocabulary(self, encoder: str) -> Vocabulary | None:
        """Return None: the protocol has no vocabulary."""
        del encoder
        return None

    def usage(self) -> UsageReply:
        """Return what this endpoint's calls came to; the host keeps no account."""
        with self._lock:
            forwards, queries, price = self._spent
        currency = self._known().card.prices.currency
        return UsageReply(account="", forwards=forwards, queries=queries, price_micros=price, currency=currency)

    def close(self) -> None:
        """Let go of connections."""
        self._transport.close()

    def _known(self) -> OipHost:
        if self._host is None:
            self.describe()
        assert self._host is not None
        return self._host

    def _described(self, server: ServerMetadata) -> OipHost:
        """Return the host's models, by the mapping or by the host's own word."""
        mapping, told = self._mapping, None
        if mapping is None:
            told = self._told()
            entries = {e.name: EncoderEntry(norm_mean=e.norm_mean, norm_std=e.norm_std) for e in told.encoders}
            mapping = contract(entries, told.objectives, ranked=told.reply_mode == "rank")
        models = [model for model in (mapping.loss, mapping.images) if model is not None]
        metadata = {model.model: self._metadata(model) for model in models}
        signatures = {model.model: signature_of(model, metadata[model.model]) for model in models}
        card = told or card_of(mapping, server, metadata)
        return OipHost(card, mapping, signatures, frozenset(server.extensions))

    def _told(self) -> ModelCard:
        """Return the card that our own server and examples put among a model's parameters."""
        for kind in ModelKind:
            try:
                card = told_card(self._get(f"/v2/models/{kind}", ModelMetadata.parse))
            except RejectedError:
                continue
            if card is not None:
                return card
        raise InputError("this host does not say which of its tensors means what; give a mapping file with --mapping")

    def _metadata(self, model: LossModel | ImagesModel) -> ModelMetadata:
        try:
            return self._get(model_path(model), ModelMetadata.parse)
        except (ProtocolError, RejectedError, WireError) as error:
            raise InputError(f"the host has no model {model.model!r}, which the mapping names ({error})") from error

    def _get(self, path: str, parse: Callable[[bytes], T], policy: RetryPolicy | None = None) -> T:
        call = Call(method="GET", path=path, max_reply_bytes=_RECORD_BYTES)
        return self._transport.send(call, lambda reply: parse(reply.body), policy=policy)

    def _infer(
        self,
        model: LossModel | ImagesModel,
        tensors: Arrays,
        make: Callable[[Arrays, Mapping[str, Any]], R],
        *,
        key: str | None,
        max_reply_bytes: int,
    ) -> R:
        key = key if key is not None else uuid.uuid4().hex
        message = infer_message(model, tensors, key, binary=self._known().binary)
        call = Call(
            method="POST",
            path=f"{model_path(model)}/infer",
            body=message.body,
            headers=message.headers,
            idempotency_key=key,
            max_reply_bytes=max_reply_bytes,
            idempotent=self.guarantees.idempotency,
        )

        def parse(reply: Reply) -> R:
            header, payload = split_body(reply.body, reply.headers.get(HEADER_LENGTH_HEADER.lower()))
            record = InferReply.parse(header)
            if record.id not in {None, "", key}:
                raise ProtocolError("the host's reply is for another request")
            return make(decode_tensors(record.outputs, payload), record.parameters or {})

        answer = self._transport.send(call, parse)
        with self._lock:
            for place, amount in enumerate((answer.charge.forwards, answer.charge.queries, answer.charge.price_micros)):
                self._spent[place] += amount
        return answer


def _cost(request: ImagesRequest, made: int) -> tuple[int, int]:
    return images_cost(made, request.num_inference_steps, request.guidance_scale)


def _answer(outputs: Arrays, model: LossModel, candidates: int, samples: int) -> tuple[list[int], dict[str, Any]]:
    """Return the candidates answered with finite losses, or ranked, and the fields of a `LossReply` that say so."""
    if model.outputs.ranking is not None:
        kept, ranking = ranking_of(outputs, model, candidates)
        return kept, {"losses": None, "ranking": ranking}
    answered, losses = losses_of(outputs, model, candidates, samples)
    finite = np.flatnonzero(np.isfinite(losses).all(axis=1))
    return [answered[row] for row in finite], {"losses": encode_tensor(losses[finite])}


def _rejections(candidates: set[int]) -> list[Rejection]:
    detail = "the host gave no finite answer for it"
    return [Rejection(candidate=c, code="not_answered", detail=detail) for c in sorted(candidates)]
