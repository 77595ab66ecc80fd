"""The engine as a function from tensors to tensors, as other inference servers call it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from blackbox_ti.errors import InputError
from blackbox_ti.oip_card import ModelKind, told_card
from server_stub.hosting.model import HostedModel, hosted
from server_stub.problems import ProblemError
from server_stub.settings import Settings
from tests.server_stub.fake_engine import DIM, FakeEngine
from tests.server_stub.inferences import image_arrays, infer, loss_arrays, outputs_of, shown
from tests.server_stub.served import served


@pytest.fixture
def model() -> HostedModel:
    """Return a hosted model of the fake engine."""
    return HostedModel(FakeEngine(), Settings())


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


def test_a_name_is_one_model_in_a_process() -> None:
    """`loss` and `images` share an engine, whichever is loaded first, and from whatever thread."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(hosted, ["tiny", "tiny"])
    assert first is second


def test_a_name_that_is_no_model_is_refused() -> None:
    """With the name, so that a typing mistake is seen."""
    with pytest.raises(InputError, match="nowhere"):
        hosted("./nowhere")
