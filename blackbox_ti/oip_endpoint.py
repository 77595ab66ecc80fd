"""A host that speaks the Open Inference Protocol, version 2, as an `Endpoint`: KServe, Triton, MLServer, ours.

Such hosts keep no concepts, so the pictures go with every request for losses. They know no idempotency keys, and do
not say what a call cost, unless they declare it among their extensions as our own server does: without that a call
whose outcome is not known is not repeated here, and the cost is what the request comes to.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.attempt import Call, Reply
from blackbox_ti.endpoint import Guarantees, Vocabulary
from blackbox_ti.errors import InputError, ProtocolError, RejectedError, WireError
from blackbox_ti.oip_card import CHARGE_EXTENSION, IDEMPOTENCY_EXTENSION, ModelKind, card_of, told_card
from blackbox_ti.oip_codec import decode_tensors
from blackbox_ti.oip_host import OipHost, infer_message, model_path
from blackbox_ti.oip_mapping import EncoderEntry, ImagesModel, LossModel, OipMapping, contract, signature_of
from blackbox_ti.oip_tensors import image_tensors, loss_tensors, losses_of, pictures_of, ranking_of
from blackbox_ti.oip_wire import HEADER_LENGTH_HEADER, InferReply, ModelMetadata, ServerMetadata, split_body
from blackbox_ti.remote import Remote, TransportArguments, key_or_fresh, told_as
from blackbox_ti.replies import check_images_reply, check_loss_reply, count_candidates
from blackbox_ti.reply_bounds import RECORD_BYTES, images_bound, losses_bound
from blackbox_ti.retry import RetryPolicy
from blackbox_ti.tally import Tally
from blackbox_ti.wire import (
    ImagesReply,
    ImagesRequest,
    LossReply,
    LossRequest,
    ModelCard,
    Rejection,
    UsageReply,
    concept_digest,
    encode_tensor,
    images_cost,
    loss_cost,
)

__all__ = ["OipEndpoint"]

T = TypeVar("T")
R = TypeVar("R", LossReply, ImagesReply)
Arrays = Mapping[str, NDArray[Any]]

_BYTES_PER_LOSS: Final = 40


class OipEndpoint(Remote[OipHost]):
    """A host at `url` whose tensors `mapping` names; every method raises `Transport.send`'s errors and is thread-safe.

    Without a mapping the host has to describe itself, as our own server does. The other arguments are `Transport`'s.
    """

    def __init__(self, url: str, *, mapping: OipMapping | None = None, **transport: Unpack[TransportArguments]) -> None:
        super().__init__(url, **transport)
        self._mapping = mapping
        self._pictures: dict[str, Sequence[bytes]] = {}
        self._tally = Tally()

    @property
    def guarantees(self) -> Guarantees:
        """What the host declared; nothing before it was asked."""
        extensions = self._learned.extensions if self._learned is not None else frozenset()
        return Guarantees(
            idempotency=IDEMPOTENCY_EXTENSION in extensions, exact_cost=CHARGE_EXTENSION in extensions, receipts=False
        )

    def describe(self) -> ModelCard:
        """Return a model card from the mapping and the host's metadata, asked afresh.

        Raises:
            ProtocolError: what answers does not speak the protocol.
            InputError: the mapping and the metadata disagree, or leave something open; the message says what.
        """
        patience = self._patience()
        with told_as(f"{self.url} does not speak the Open Inference Protocol; check the address"):
            server = self._get("/v2", ServerMetadata.parse, patience)
        self._get("/v2/health/ready", lambda _: None, patience)
        self._learned = self._described(server)
        return self._learned.card

    def register_concept(self, images: Sequence[bytes]) -> str:
        """Keep the reference images, to be sent with each request for losses; nothing is sent now."""
        concept = concept_digest(images)
        self._pictures[concept] = tuple(images)
        return concept

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
        candidates, n = count_candidates(request), len(request.samples)
        tensors = loss_tensors(request, pictures, model, signature, host.card.resolution)
        bound = losses_bound(request, bytes_per_loss=_BYTES_PER_LOSS)

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
        bound = images_bound(request, limits)

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
        return self._tally.usage("", self._known().card.prices.currency)

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
        call = Call(method="GET", path=path, max_reply_bytes=RECORD_BYTES)
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
        key = key_or_fresh(key)
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
        self._tally.count(answer.charge)
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
