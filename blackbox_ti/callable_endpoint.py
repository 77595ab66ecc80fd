"""Any Python callable as an `Endpoint`: for research and for tests, with exact costs and no host."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from blackbox_ti.budget import charge_of
from blackbox_ti.concept import decode_image
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import EndpointError, InputError, ProtocolError, RejectedError
from blackbox_ti.local import Local, decoded, encoded
from blackbox_ti.replies import check_images_reply, check_loss_reply, count_candidates
from blackbox_ti.wire import (
    PROTOCOL_VERSION,
    Encoder,
    ImagesReply,
    ImagesRequest,
    Limits,
    LossReply,
    LossRequest,
    ModelCard,
    Rejection,
    concept_digest,
    encode_tensor,
    images_cost,
    loss_cost,
)

__all__ = ["CallableEndpoint", "ImagesFunction", "LossesFunction"]

T = TypeVar("T")
Embeddings = Mapping[str, NDArray[np.float32]]
LossesFunction = Callable[[Embeddings, LossRequest, Sequence[Image.Image]], ArrayLike]
ImagesFunction = Callable[[Embeddings, ImagesRequest], Sequence[Image.Image | None]]


class CallableEndpoint(Local[list[Image.Image]]):
    """`losses` and `images`, either or both, behind the `Endpoint` protocol; they are called one at a time.

    `losses(embeddings, request, references)` returns (B, n) for embeddings (B, T, D) by encoder, the n samples of
    `request.samples`, and the reference pictures that samples name; a candidate with a loss that is not finite is
    rejected alone. `images(embeddings, request)` returns one RGB picture for each of `request.items`, of the size asked
    (`resolution` where it is None), or None for all items of a candidate that it rejects. `encoders` maps names to
    vocabularies, or to the width D of an embedding where there is no vocabulary.

    Raises:
        InputError: neither callable is given, or there is no encoder.
    """

    def __init__(
        self,
        *,
        encoders: Mapping[str, int | Vocabulary],
        losses: LossesFunction | None = None,
        images: ImagesFunction | None = None,
        resolution: int = 64,
        name: str = "callable",
        limits: Limits | None = None,
    ) -> None:
        super().__init__()
        if losses is None and images is None:
            raise InputError("a callable endpoint needs a function for losses, for images, or both")
        if not encoders:
            raise InputError("a callable endpoint needs at least one encoder, by name")
        self._losses, self._images, self._encoders = losses, images, dict(encoders)
        self._resolution, self._name = resolution, name
        self._limits = limits or Limits(max_forwards=65_536, max_samples=4096, max_candidates=4096, max_images=4096)

    def describe(self) -> ModelCard:
        """Return the model card; its fingerprint is of the name alone, since code has none."""
        offered: list[Literal["loss", "images"]] = ["loss"] if self._losses else []
        tables = [table for table in self._encoders.values() if isinstance(table, Vocabulary)]
        return ModelCard(
            protocol_version=PROTOCOL_VERSION,
            model=self._name,
            family="callable",
            fingerprint=hashlib.sha256(self._name.encode()).hexdigest(),
            encoders=[_encoder(name, table) for name, table in self._encoders.items()],
            resolution=self._resolution,
            prediction_type="none",
            objectives=[*offered, "images"] if self._images else offered,
            vocabulary=len(tables) == len(self._encoders),
            limits=self._limits,
        )

    def register_concept(self, images: Sequence[bytes]) -> str:
        """Keep the reference images for `losses`, and return their id."""
        concept = concept_digest(images)
        self._concepts[concept] = [decode_image(data, "reference picture") for data in images]
        return concept

    def losses(self, request: LossRequest, *, label: str, key: str | None = None) -> LossReply:
        """Score every candidate on every sample.

        Raises:
            EndpointError: the callable failed.
            ProtocolError: it returned another shape than asked.
        """
        del label, key
        if self._losses is None:
            raise RejectedError("this endpoint has no function for losses")
        references, embeddings = self._concept(request.concept), decoded(request.embeddings)
        function = self._losses
        table = np.asarray(self._called(lambda: function(embeddings, request, references)), dtype=np.float32)
        count = count_candidates(request)
        if table.shape != (count, len(request.samples)):
            raise ProtocolError(f"the function for losses returned {table.shape}, not {(count, len(request.samples))}")
        good = [c for c in range(count) if np.isfinite(table[c]).all()]
        reply = LossReply(
            candidates=good,
            losses=encode_tensor(table[good]),
            rejected=[_rejection(c, "a loss is not finite") for c in range(count) if c not in good],
            charge=charge_of(loss_cost(len(good), len(request.samples))),
        )
        check_loss_reply(request, reply, self.describe())
        self._tally.count(reply.charge)
        return reply

    def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
        """Make pictures.

        Raises:
            EndpointError: the callable failed.
            ProtocolError: it returned another number of pictures than asked, or of another size.
        """
        del label, key
        if self._images is None:
            raise RejectedError("this endpoint has no function for images")
        embeddings, function = decoded(request.embeddings), self._images
        pictures = list(self._called(lambda: function(embeddings, request)))
        if len(pictures) != len(request.items):
            raise ProtocolError(f"the function returned {len(pictures)} pictures for {len(request.items)} items")
        refused = {item.candidate for item, picture in zip(request.items, pictures, strict=True) if picture is None}
        cost = images_cost(
            sum(picture is not None for picture in pictures), request.num_inference_steps, request.guidance_scale
        )
        reply = ImagesReply(
            images=[None if picture is None else encoded(picture.convert("RGB")) for picture in pictures],
            rejected=[_rejection(c, "no picture was made of it") for c in sorted(refused)],
            charge=charge_of(cost),
        )
        check_images_reply(request, reply, self.describe())
        self._tally.count(reply.charge)
        return reply

    def vocabulary(self, encoder: str) -> Vocabulary | None:
        """Return an encoder's token table, or None where none was given."""
        table = self._encoders[encoder]
        return table if isinstance(table, Vocabulary) else None

    def _called(self, call: Callable[[], T]) -> T:
        with self._lane:
            try:
                return call()
            except Exception as error:
                # The function is the user's own code.
                raise EndpointError(f"the endpoint's function failed: {type(error).__name__}: {error}") from error


def _encoder(name: str, table: int | Vocabulary) -> Encoder:
    """Return what the card says of an encoder; without a vocabulary its rows are taken to have norm 1."""
    if not isinstance(table, Vocabulary):
        return Encoder(name=name, dim=table, norm_mean=1.0, norm_std=0.0)
    norms = np.linalg.norm(table.embeddings, axis=1)
    return Encoder(name=name, dim=table.embeddings.shape[1], norm_mean=float(norms.mean()), norm_std=float(norms.std()))


def _rejection(candidate: int, detail: str) -> Rejection:
    return Rejection(candidate=candidate, code="rejected", detail=detail)
