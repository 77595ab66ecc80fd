"""The models as Triton has them, bound to a recorder instead of a server; skipped where PyTriton is not installed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from blackbox_ti.oip_card import ModelKind
from blackbox_ti.oip_codec import DATATYPES
from server_stub.hosting.model import HostedModel
from server_stub.oip_contract import OPTIONAL_INPUTS
from server_stub.problems import ProblemError
from server_stub.settings import Settings
from tests.server_stub.fake_engine import FakeEngine
from tests.server_stub.inferences import image_arrays, shown


@pytest.fixture
def model() -> HostedModel:
    """Return a hosted model of the fake engine."""
    return HostedModel(FakeEngine(), Settings())


@pytest.fixture
def bound(model: HostedModel) -> dict[str, Any]:
    """Return what Triton was given, by the models' names."""
    pytest.importorskip("pytriton", reason="PyTriton is not installed: pip install -e '.[triton]'")
    from server_stub.hosting.triton import bind

    given: dict[str, Any] = {}
    recorder: Any = SimpleNamespace(bind=lambda **told: given.__setitem__(told["model_name"], SimpleNamespace(**told)))
    bind(recorder, model)
    return given


def test_both_models_are_bound_with_the_tensors_they_take_and_give(bound: dict[str, Any], model: HostedModel) -> None:
    """Names, shapes and datatypes are the metadata's; what may be left out may be left out of a request to Triton."""
    assert bound.keys() == {"loss", "images"}
    for kind in ModelKind:
        metadata = model.metadata(kind)
        pairs = [(metadata.inputs, bound[kind.value].inputs), (metadata.outputs, bound[kind.value].outputs)]
        for declared, tensors in pairs:
            assert [(t.name, list(t.shape)) for t in tensors] == [(t.name, t.shape) for t in declared or []]
            for tensor, told in zip(tensors, declared or [], strict=True):
                expected = np.bytes_ if told.datatype == "BYTES" else DATATYPES[told.datatype].type
                assert tensor.dtype == expected
                assert tensor.optional == (told.name in OPTIONAL_INPUTS)
        assert not bound[kind.value].config.batching


def test_requests_are_answered_one_by_one_as_the_model_answers(bound: dict[str, Any], model: HostedModel) -> None:
    """Two of one call may differ in everything."""
    asked = [shown(), shown(samples=1, seed=np.array([9]))]
    for found, arrays in zip(bound["loss"].infer_func(asked), asked, strict=True):
        np.testing.assert_array_equal(found["losses"], model.infer(ModelKind.LOSS, arrays)["losses"])
    (found,) = bound["images"].infer_func([image_arrays()])
    assert list(found["images"]) == list(model.infer(ModelKind.IMAGES, image_arrays())["images"])


def test_what_is_no_request_is_refused(bound: dict[str, Any]) -> None:
    """With the model's own words, which Triton tells the client."""
    with pytest.raises(ProblemError, match="t is missing"):
        bound["loss"].infer_func([shown(t=None)])
