"""A host that speaks the Open Inference Protocol, once it was asked what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from numpy.typing import NDArray

from blackbox_ti.budget import charge_of
from blackbox_ti.errors import InputError, ProtocolError
from blackbox_ti.oip_card import CHARGE_EXTENSION
from blackbox_ti.oip_codec import encode_tensors
from blackbox_ti.oip_mapping import ImagesModel, LossModel, OipMapping, Signature
from blackbox_ti.oip_wire import BINARY_EXTENSION, InferRequest, Message, RequestedOutput, encode_message
from blackbox_ti.replies import check_charge
from blackbox_ti.wire import Charge, ModelCard

__all__ = ["OipHost", "infer_message", "model_path"]

Arrays = Mapping[str, NDArray[Any]]


class OipHost:
    """What is known of a host once it was asked: its card, and which tensor of which model means what."""

    def __init__(
        self, card: ModelCard, mapping: OipMapping, signatures: Mapping[str, Signature], extensions: frozenset[str]
    ) -> None:
        self.card = card
        self.extensions = extensions
        self.binary = mapping.binary if mapping.binary is not None else BINARY_EXTENSION in extensions
        self._mapping = mapping
        self._signatures = signatures

    @property
    def loss(self) -> tuple[LossModel, Signature]:
        """The model that scores."""
        if self._mapping.loss is None:
            raise InputError("the mapping has no [loss]: this host makes pictures alone")
        return self._mapping.loss, self._signatures[self._mapping.loss.model]

    @property
    def images(self) -> tuple[ImagesModel, Signature]:
        """The model that makes pictures."""
        if self._mapping.images is None:
            raise InputError("the mapping has no [images]: this host makes no pictures")
        return self._mapping.images, self._signatures[self._mapping.images.model]

    def charge(self, cost: tuple[int, int]) -> Charge:
        """Return a cost (forwards, queries) as a charge."""
        return charge_of(cost, self.card.prices)

    def charged(self, parameters: Mapping[str, Any], *, exact: tuple[int, int], sent: tuple[int, int]) -> Charge:
        """Return the host's own charge, which has to be the exact one; of a host that tells none, all that was sent."""
        if CHARGE_EXTENSION not in self.extensions:
            return self.charge(sent)
        told = [parameters.get(name) for name in ("forwards", "queries", "price_micros")]
        if not all(type(amount) is int and amount >= 0 for amount in told):
            raise ProtocolError("the host promises to say what a call cost, but its reply does not")
        charge = Charge.model_validate(dict(zip(("forwards", "queries", "price_micros"), told, strict=True)))
        check_charge(charge, exact, self.card.prices)
        return charge


def model_path(model: LossModel | ImagesModel) -> str:
    """Return the path of a model of the host."""
    version = "" if model.version is None else f"/versions/{quote(model.version, safe='')}"
    return f"/v2/models/{quote(model.model, safe='')}{version}"


def infer_message(model: LossModel | ImagesModel, tensors: Arrays, key: str, *, binary: bool) -> Message:
    """Return the request for all mapped outputs, the same bytes for the same tensors and key."""
    names = sorted(tensors)
    inputs, payload = encode_tensors({name: tensors[name] for name in names}, dict.fromkeys(names, binary))
    wanted = [
        RequestedOutput(name=name, parameters={"binary_data": True} if binary else None)
        for name in model.outputs.model_dump(exclude_none=True).values()
    ]
    return encode_message(InferRequest(id=key, inputs=inputs, outputs=wanted), payload)
