"""The engine as a function from tensors to tensors, for servers that bring their own queue and HTTP.

The models and tensors are those of `server_stub.oip_contract`, without concepts: pictures come with each request and
are encoded once. Keys, budgets, receipts and rates are left to the server around it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

from numpy.typing import NDArray

from blackbox_ti.oip_card import ModelKind
from blackbox_ti.oip_wire import ModelMetadata
from blackbox_ti.wire import Charge, ImagesReply, LossReply, ModelCard, ProblemCode
from server_stub.concepts import ConceptStore
from server_stub.diffusers_engine import DiffusersEngine
from server_stub.engine import Engine
from server_stub.host import model_card
from server_stub.hosting.answers import answer_images, answer_loss
from server_stub.oip_contract import (
    images_outputs,
    images_request,
    loss_outputs,
    loss_request,
    model_metadata,
    pictures,
)
from server_stub.problems import ProblemError
from server_stub.references import register
from server_stub.settings import Settings

__all__ = ["HostedModel", "hosted"]

Arrays = Mapping[str, NDArray[Any]]

_MAX_CONCEPTS = 64
_LOADING = threading.Lock()


class HostedModel:
    """One engine, one request at a time; safe from any thread.

    Limits and the rest of `Settings` are read from the environment, as our own server does.
    """

    def __init__(self, engine: Engine, settings: Settings | None = None) -> None:
        self._engine = engine
        self._settings = settings or Settings()
        self.card: ModelCard = model_card(engine, self._settings, None)
        self._concepts = ConceptStore(self.card.fingerprint, max_concepts=_MAX_CONCEPTS)
        self._lane = threading.Lock()

    def metadata(self, kind: ModelKind) -> ModelMetadata:
        """Return a model's metadata."""
        made = model_metadata(kind, self.card)
        return made.model_copy(update={"inputs": [t for t in made.inputs or [] if t.name != "concept"]})

    def infer(self, kind: ModelKind, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Return a model's outputs.

        Raises:
            ProblemError: the inputs are not what the model takes.
        """
        with self._lane:
            return (
                loss_outputs(self._losses(arrays)) if kind is ModelKind.LOSS else images_outputs(self._images(arrays))
            )

    def warm_up(self) -> None:
        """Run every code path once."""
        with self._lane:
            self._engine.warm_up()

    def _losses(self, arrays: Arrays) -> LossReply:
        shown = pictures(arrays, self.card)
        if shown is None:
            raise ProblemError(ProblemCode.CONCEPT_NOT_FOUND, "no concepts are kept here; send the pictures")
        concept = register(self._concepts, "", shown, self._engine.encode_images)
        return answer_loss(self._engine, self.card, loss_request(arrays, concept.id), concept.latents, _free)

    def _images(self, arrays: Arrays) -> ImagesReply:
        most = self._settings.max_side(self.card.resolution)
        return answer_images(self._engine, self.card, images_request(arrays), most, _free)


def hosted(model: str) -> HostedModel:
    """Return the one hosted model of a name in this process: a diffusers directory, a hub id, or `tiny`, warm."""
    with _LOADING:  # `loss` and `images` are loaded side by side, and share an engine
        return _loaded(model)


@cache
def _loaded(model: str) -> HostedModel:
    made = HostedModel(DiffusersEngine.load(model))
    made.warm_up()
    return made


def _free(_: tuple[int, int]) -> Charge:
    """Return the charge of a server that keeps no accounts."""
    return Charge(forwards=0, queries=0, price_micros=0)
