"""A model in this very process as an `Endpoint`: for research and for tests, with no sockets in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from blackbox_ti.budget import charge_of
from blackbox_ti.concept import decode_image, square
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import InputError
from blackbox_ti.local import Local, decoded, encoded
from blackbox_ti.wire import (
    PROTOCOL_VERSION,
    ImagesReply,
    ImagesRequest,
    Limits,
    LossReply,
    LossRequest,
    ModelCard,
    concept_digest,
    encode_tensor,
    images_cost,
    loss_cost,
)
from server_stub.engine import Engine, ImageJob, LossJob

__all__ = ["InProcessEndpoint"]


class InProcessEndpoint(Local[Any]):
    """`engine` behind the `Endpoint` protocol, with the exact costs and no prices, keys or receipts.

    Any thread may call it; the engine is asked one thing at a time.
    """

    def __init__(self, engine: Engine, *, limits: Limits | None = None) -> None:
        super().__init__()
        self._engine = engine
        self._limits = limits or Limits(max_forwards=65_536, max_samples=4096, max_candidates=4096)

    @classmethod
    def from_pipeline(cls, pipe: Any, *, micro_batch: int | None = None, limits: Limits | None = None) -> Self:
        """Return the endpoint of a loaded diffusers pipeline, where it is: its device and dtype stay as they are.

        Raises:
            InputError: the pipeline is of a family not served.
        """
        from server_stub.diffusers_engine import DiffusersEngine
        from server_stub.families import FAMILIES

        kind = type(pipe).__name__
        if kind not in FAMILIES:
            raise InputError(f"a {kind} cannot be asked for losses and pictures; use one of {', '.join(FAMILIES)}")
        return cls(DiffusersEngine(pipe, micro_batch=micro_batch), limits=limits)

    def describe(self) -> ModelCard:
        """Return the model card."""
        info = self._engine.info
        return ModelCard(
            protocol_version=PROTOCOL_VERSION,
            model=info.model[:256],
            family=info.family,
            fingerprint=info.fingerprint,
            encoders=list(info.encoders),
            resolution=info.resolution,
            prediction_type=info.prediction_type,
            objectives=["loss", "images"],
            vocabulary=True,
            limits=self._limits,
        )

    def register_concept(self, images: Sequence[bytes]) -> str:
        """Encode the reference images and return their id."""
        pictures = [square(decode_image(data, "picture"), self._engine.info.resolution) for data in images]
        concept = concept_digest(images)
        with self._lane:
            self._concepts[concept] = self._engine.encode_images(pictures)
        return concept

    def losses(self, request: LossRequest, *, label: str, key: str | None = None) -> LossReply:
        """Score every candidate on every sample."""
        del label, key
        job = LossJob(
            latents=self._concept(request.concept),
            placeholder_token=request.placeholder_token,
            embeddings=decoded(request.embeddings),
            prompts=request.prompts,
            samples=request.samples,
        )
        with self._lane:
            losses = self._engine.losses(job)
        count = len(losses)
        charge = charge_of(loss_cost(count, len(request.samples)))
        self._tally.count(charge)
        return LossReply(candidates=list(range(count)), losses=encode_tensor(losses), charge=charge)

    def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
        """Make pictures."""
        del label, key
        side = self._engine.info.resolution
        job = ImageJob(
            placeholder_token=request.placeholder_token,
            embeddings=decoded(request.embeddings),
            prompts=request.prompts,
            items=request.items,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            negative_prompt=request.negative_prompt,
            height=request.height or side,
            width=request.width or side,
        )
        with self._lane:
            made = self._engine.images(job)
        pictures: list[str | None] = [encoded(picture) for picture in made]
        charge = charge_of(images_cost(len(request.items), request.num_inference_steps, request.guidance_scale))
        self._tally.count(charge)
        return ImagesReply(images=pictures, charge=charge)

    def vocabulary(self, encoder: str) -> Vocabulary:
        """Return an encoder's token table."""
        return Vocabulary(*self._engine.vocabulary(encoder))
