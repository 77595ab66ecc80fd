"""Tests of the model card of an inference protocol's host."""

from __future__ import annotations

import pytest

from blackbox_ti.errors import ProtocolError
from blackbox_ti.oip_card import CARD_PARAMETER, card_of, told_card
from blackbox_ti.oip_mapping import EncoderEntry, contract
from blackbox_ti.oip_wire import ModelMetadata, ServerMetadata
from tests.fake_host import FakeHost

SERVER = ServerMetadata(name="triton", version="2.51")


def metadata(name: str, width: int, version: str = "1") -> ModelMetadata:
    """Return the metadata of a model whose embeddings are `width` wide."""
    inputs = [{"name": "embeddings_text", "datatype": "FP32", "shape": [-1, -1, width]}]
    return ModelMetadata.model_validate({"name": name, "versions": [version], "inputs": inputs})


def test_a_card_told_is_the_hosts_own_without_a_vocabulary() -> None:
    """The protocol has no way to ask for the vocabulary."""
    card = FakeHost().card
    told = told_card(ModelMetadata(name="loss", parameters={CARD_PARAMETER: card.model_dump_json()}))
    assert told == card.model_copy(update={"vocabulary": False})
    assert told_card(ModelMetadata(name="loss")) is None


@pytest.mark.parametrize(
    "told", ["{", "[]", 5, FakeHost().card.model_copy(update={"protocol_version": "2"}).model_dump_json()]
)
def test_a_card_that_cannot_be_read_is_a_protocol_error(told: object) -> None:
    """Broken, no text, or of another version."""
    with pytest.raises(ProtocolError, match="card"):
        told_card(ModelMetadata(name="loss", parameters={CARD_PARAMETER: told}))


def test_another_version_of_a_model_is_another_fingerprint() -> None:
    """A run begun on one is not resumed on the other; a newer server alone changes nothing."""
    made = contract({"text": EncoderEntry(norm_mean=1, norm_std=0)}).model_copy(update={"resolution": 64})
    first = {name: metadata(name, 8) for name in ("loss", "images")}
    second = {**first, "loss": metadata("loss", 8, version="2")}
    fingerprint = card_of(made, SERVER, first).fingerprint
    assert card_of(made, SERVER, second).fingerprint != fingerprint
    assert card_of(made, SERVER.model_copy(update={"version": "3"}), first).fingerprint == fingerprint
