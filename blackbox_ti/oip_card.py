"""The model card of a host that speaks the Open Inference Protocol: its own word, or mapping and metadata together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from pydantic import ValidationError

from blackbox_ti.errors import InputError, ProtocolError
from blackbox_ti.oip_mapping import ImagesModel, LossModel, OipMapping
from blackbox_ti.oip_wire import ModelMetadata, ServerMetadata
from blackbox_ti.wire import PROTOCOL_VERSION, Encoder, ModelCard

__all__ = [
    "CARD_PARAMETER",
    "CHARGE_EXTENSION",
    "IDEMPOTENCY_EXTENSION",
    "ModelKind",
    "card_of",
    "told_card",
]

CARD_PARAMETER: Final = "blackbox_ti_card"
IDEMPOTENCY_EXTENSION: Final = "blackbox_ti_idempotency"
CHARGE_EXTENSION: Final = "blackbox_ti_charge"


class ModelKind(StrEnum):
    """The models of our own server, by name."""

    LOSS = "loss"
    IMAGES = "images"


def told_card(metadata: ModelMetadata) -> ModelCard | None:
    """Return the model card among a model's parameters, or None where there is none.

    Raises:
        ProtocolError: it is no card, or of another version of the protocol.
    """
    told = (metadata.parameters or {}).get(CARD_PARAMETER)
    if told is None:
        return None
    try:
        card = ModelCard.model_validate_json(told)
    except (ValidationError, ValueError, TypeError, RecursionError) as error:
        raise ProtocolError("the host's model card cannot be read") from error
    if card.protocol_version != PROTOCOL_VERSION:
        raise ProtocolError(f"the host's model card is of another version of the protocol than {PROTOCOL_VERSION}")
    return card.model_copy(update={"vocabulary": False})


def card_of(mapping: OipMapping, server: ServerMetadata, metadata: Mapping[str, ModelMetadata]) -> ModelCard:
    """Return the card of a host; `metadata` are its models' by name.

    Raises:
        InputError: neither mapping nor metadata say the width of an encoder or the resolution, or they disagree.
    """
    models = [model for model in (mapping.loss, mapping.images) if model is not None]
    first = metadata[models[0].model]
    return ModelCard(
        protocol_version=PROTOCOL_VERSION,
        model=(mapping.name or f"{server.name}/{first.name}")[:256],
        family=mapping.family,
        fingerprint=mapping.fingerprint or _fingerprint(server, metadata),
        encoders=[_encoder(name, mapping, models, metadata) for name in models[0].inputs.embeddings],
        resolution=_resolution(mapping, metadata),
        prediction_type=mapping.prediction_type,
        reply_mode="rank" if mapping.loss is not None and mapping.loss.outputs.ranking is not None else "exact",
        objectives=[kind.value for kind, model in zip(ModelKind, (mapping.loss, mapping.images), strict=True) if model],
        limits=mapping.limits,
        prices=mapping.prices,
    )


def _fingerprint(server: ServerMetadata, metadata: Mapping[str, ModelMetadata]) -> str:
    """Return a hash of all the host says of itself: it tells models apart by name and version, not by weights."""
    told = [server.name, {name: model.model_dump(mode="json") for name, model in metadata.items()}]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _encoder(
    name: str, mapping: OipMapping, models: list[LossModel | ImagesModel], metadata: Mapping[str, ModelMetadata]
) -> Encoder:
    entry = mapping.encoders.get(name)
    if entry is None:
        raise InputError(f"the mapping needs [encoders.{name}] with norm_mean and norm_std: hosts do not tell them")
    declared = [
        tensor.shape[-1]
        for model in models
        for tensor in metadata[model.model].inputs or []
        if tensor.name == model.inputs.embeddings.get(name) and tensor.shape and tensor.shape[-1] > 0
    ]
    widths = {*declared, *([entry.dim] if entry.dim is not None else [])}
    if len(widths) != 1:
        told = "nobody says" if not widths else f"mapping and metadata say {' and '.join(map(str, sorted(widths)))}"
        raise InputError(f"{told} how wide the embeddings of {name!r} are; set dim under [encoders.{name}]")
    return Encoder(name=name, dim=widths.pop(), norm_mean=entry.norm_mean, norm_std=entry.norm_std)


def _resolution(mapping: OipMapping, metadata: Mapping[str, ModelMetadata]) -> int:
    """Return the side of the pictures in pixels: the mapping's, or that of the pixels the models declare."""
    if mapping.resolution is not None:
        return mapping.resolution
    named: list[tuple[str, str | None]] = []
    if mapping.loss is not None:
        named.append((mapping.loss.model, mapping.loss.inputs.pictures))
    if mapping.images is not None:
        named.append((mapping.images.model, mapping.images.outputs.images))
    for model, tensor_name in named:
        for tensor in [*(metadata[model].inputs or []), *(metadata[model].outputs or [])]:
            square = len(tensor.shape) == 4 and tensor.shape[1] == tensor.shape[2] > 0
            if tensor.name == tensor_name and square:
                return tensor.shape[1]
    raise InputError("nobody says how large the model's pictures are; set resolution in the mapping")
