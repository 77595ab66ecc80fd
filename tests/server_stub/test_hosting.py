"""Tests of the engine as a function from tensors to tensors, as other inference servers call it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blackbox_ti.oip_card import ModelKind, told_card
from blackbox_ti.oip_codec import bytes_array
from blackbox_ti.oip_mapping import load_mapping, signature_of
from server_stub.hosting.mapping import mapping_toml
from server_stub.hosting.model import HostedModel
from server_stub.problems import ProblemError
from server_stub.settings import Settings
from tests.server_stub.fake_engine import DIM, FakeEngine
from tests.server_stub.served import served
from tests.server_stub.test_oip import file, image_arrays, infer, loss_arrays, outputs_of


@pytest.fixture
def model() -> HostedModel:
    """Return a hosted model of the fake engine."""
    return HostedModel(FakeEngine(), Settings())


def shown(**changes: Any) -> dict[str, NDArray[Any]]:
    """Return the inputs of a request that brings its picture."""
    return loss_arrays(**{"concept": None, "pictures": bytes_array([file()])} | changes)


def test_a_hosted_model_answers_what_our_server_answers(model: HostedModel) -> None:
    """The same losses, bit for bit, and the same pictures."""
    with served() as app:
        for kind, arrays in ((ModelKind.LOSS, shown()), (ModelKind.IMAGES, image_arrays())):
            expected = outputs_of(infer(app, kind.value, arrays))
            found = model.infer(kind, arrays)
            assert set(found) == set(expected)
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array)


def test_pictures_are_encoded_once() -> None:
    """The second request about them only scores."""
    engine = FakeEngine()
    hosted = HostedModel(engine, Settings())
    for _ in range(3):
        hosted.infer(ModelKind.LOSS, shown())
    assert engine.calls == 4


def test_limits_hold_without_a_server_around(model: HostedModel) -> None:
    """What our own server would refuse is refused; a bad candidate alone has no row."""
    with pytest.raises(ProblemError):
        model.infer(ModelKind.LOSS, shown(t=np.array([0.5])))
    with pytest.raises(ProblemError, match="no concepts"):
        model.infer(ModelKind.LOSS, loss_arrays())
    with pytest.raises(ProblemError):
        model.infer(ModelKind.IMAGES, image_arrays(num_inference_steps=np.array([10_000])))
    values = np.full((2, 1, DIM), np.nan, np.float32)
    values[1] = 0.5
    found = model.infer(ModelKind.LOSS, shown(embeddings_text=values))
    assert (found["losses"].shape, found["candidates"].tolist()) == ((1, 2), [1])


def test_the_metadata_hold_the_card_and_no_concept(model: HostedModel) -> None:
    """A client without a mapping can use the model; it is not offered what is not there."""
    metadata = model.metadata(ModelKind.LOSS)
    assert told_card(metadata) == model.card
    assert "concept" not in {tensor.name for tensor in metadata.inputs or []}


def test_the_printed_mapping_is_the_models(model: HostedModel, tmp_path: Path) -> None:
    """It reads back, fits the metadata of both models, and says of the model what the card says."""
    text = mapping_toml(model.card)
    tomllib.loads(text)
    path = tmp_path / "m.toml"
    path.write_text(text)
    mapping = load_mapping(path)
    assert mapping.loss is not None
    assert mapping.images is not None
    signature_of(mapping.loss, model.metadata(ModelKind.LOSS))
    signature_of(mapping.images, model.metadata(ModelKind.IMAGES))
    assert (mapping.fingerprint, mapping.resolution) == (model.card.fingerprint, model.card.resolution)
    assert mapping.limits.max_norm == model.card.limits.max_norm
