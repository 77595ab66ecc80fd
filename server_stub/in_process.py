"""A model in this very process as an `Endpoint`: for research and for tests, with no sockets in between."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.concept import decode_image, encode_png, square
from blackbox_ti.endpoint import Guarantees, Vocabulary
from blackbox_ti.errors import InputError, RejectedError
from blackbox_ti.wire import (
    PROTOCOL_VERSION,
    Charge,
    ImagesReply,
    ImagesRequest,
    Limits,
    LossReply,
    LossRequest,
    ModelCard,
    Tensor,
    UsageReply,
    decode_tensor,
    encode_tensor,
    images_cost,
    loss_cost,
)
from server_stub.engine import Engine, ImageJob, LossJob

__all__ = ["InProcessEndpoint"]


class InProcessEndpoint:
    """`engine` behind the `Endpoint` protocol, with the exact costs and no prices, keys or receipts.

    Any thread may call it; the engine is asked one thing at a time.
    """

    guarantees = Guarantees(receipts=False)

    def __init__(self, engine: Engine, *, limits: Limits | None = None) -> None:
        self._engine = engine
        self._limits = limits or Limits(max_forwards=65_536, max_samples=4096, max_candidates=4096)
        self._concepts: dict[str, Any] = {}
        self._forwards = self._queries = 0
        self._lane = threading.Lock()

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
        concept = hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in images)).hexdigest()
        with self._lane:
            self._concepts[concept] = self._engine.encode_images(pictures)
        return concept

    def delete_concept(self, concept: str) -> None:
        """Forget the concept."""
        self._concepts.pop(concept, None)

    def losses(self, request: LossRequest, *, label: str, key: str | None = None) -> LossReply:
        """Score every candidate on every sample."""
        del label, key
        if request.concept not in self._concepts:
            raise RejectedError("no such concept here; register the pictures first")
        embeddings = _decoded(request.embeddings)
        job = LossJob(
            latents=self._concepts[request.concept],
            placeholder_token=request.placeholder_token,
            embeddings=embeddings,
            prompts=request.prompts,
            samples=request.samples,
        )
        with self._lane:
            losses = self._engine.losses(job)
        count = len(losses)
        return LossReply(
            candidates=list(range(count)),
            losses=encode_tensor(losses),
            charge=self._charge(loss_cost(count, len(request.samples))),
        )

    def images(self, request: ImagesRequest, *, label: str, key: str | None = None) -> ImagesReply:
        """Make pictures."""
        del label, key
        side = self._engine.info.resolution
        job = ImageJob(
            placeholder_token=request.placeholder_token,
            embeddings=_decoded(request.embeddings),
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
        pictures: list[str | None] = [base64.b64encode(encode_png(p)).decode("ascii") for p in made]
        cost = images_cost(len(request.items), request.num_inference_steps, request.guidance_scale)
        return ImagesReply(images=pictures, charge=self._charge(cost))

    def vocabulary(self, encoder: str) -> Vocabulary:
        """Return an encoder's token table."""
        return Vocabulary(*self._engine.vocabulary(encoder))

    def usage(self) -> UsageReply:
        """Return what was asked so far."""
        return UsageReply(
            account="in-process", forwards=self._forwards, queries=self._queries, price_micros=0, currency="USD"
        )

    def close(self) -> None:
        """Nothing to let go of."""

    def _charge(self, cost: tuple[int, int]) -> Charge:
        with self._lane:
            self._forwards += cost[0]
            self._queries += cost[1]
        return Charge(forwards=cost[0], queries=cost[1], price_micros=0)


def _decoded(embeddings: dict[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: decode_tensor(tensor) for name, tensor in embeddings.items()}
