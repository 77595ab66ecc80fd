"""The runtime for MLServer; what needs MLServer is skipped where it is not installed."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import server_stub.hosting
from blackbox_ti.oip_card import CARD_PARAMETER, ModelKind
from blackbox_ti.oip_codec import bytes_array, decode_tensors, encode_tensors
from blackbox_ti.oip_wire import InferTensor
from blackbox_ti.wire import ModelCard
from server_stub.hosting.model import HostedModel, hosted
from tests.server_stub.inferences import file

FOLDER = Path(str(server_stub.hosting.__file__)).parent


def test_the_model_files_name_the_runtime_and_the_models() -> None:
    """Each folder is one of the two models, and its implementation is a class that is there."""
    files = sorted((FOLDER / "mlserver").glob("*/model-settings.json"))
    told = [json.loads(path.read_text()) for path in files]
    assert (
        [one["name"] for one in told]
        == [path.parent.name for path in files]
        == sorted(kind.value for kind in ModelKind)
    )
    for one in told:
        module, _, name = one["implementation"].rpartition(".")
        found = importlib.util.find_spec(module)
        assert found is not None
        assert found.origin is not None
        tree = ast.parse(Path(found.origin).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    # One engine serves both, which only one process can.
    assert json.loads((FOLDER / "mlserver" / "settings.json").read_text())["parallel_workers"] == 0


@pytest.fixture(name="mlserver")
def _mlserver() -> Any:
    return pytest.importorskip("mlserver", reason="MLServer is not installed: pip install -e '.[mlserver]'")


def _runtime(mlserver: Any, name: str) -> Any:
    from server_stub.hosting.mlserver_runtime import BlackboxRuntime

    parameters = mlserver.settings.ModelParameters(uri="tiny", version="1")
    return BlackboxRuntime(mlserver.ModelSettings(name=name, implementation=BlackboxRuntime, parameters=parameters))


@pytest.fixture
def loss(mlserver: Any) -> Any:
    """Return the runtime of the model `loss`, loaded with the bundled model."""
    runtime = _runtime(mlserver, "loss")
    assert asyncio.run(runtime.load())
    return runtime


def _arrays(model: HostedModel) -> dict[str, NDArray[Any]]:
    encoder = model.card.encoders[0]
    values = np.random.default_rng(0).normal(0, 0.03, (2, 1, encoder.dim)).astype(np.float32)
    return {
        f"embeddings_{encoder.name}": values,
        "prompts": bytes_array([b"a photo of a <sks>"]),
        "prompt": np.zeros(2, np.int64),
        "placeholder_token": bytes_array([b"<sks>"]),
        "image": np.zeros(2, np.int64),
        "t": np.array([0.25, 0.75]),
        "seed": np.array([3, 4]),
        "pictures": bytes_array([file()]),
    }


def _request(mlserver: Any, arrays: dict[str, NDArray[Any]], *, raw: bool = False) -> Any:
    """Return the inference as MLServer reads it: BYTES are bytes over gRPC (`raw`), text over HTTP."""
    tensors, _ = encode_tensors(arrays, {})
    inputs = [tensor.model_dump(exclude_none=True) for tensor in tensors]
    if raw:
        for one in inputs:
            if one["datatype"] == "BYTES":
                one |= {"data": list(arrays[one["name"]].ravel()), "parameters": None}
    return mlserver.types.InferenceRequest(id="7", inputs=[mlserver.types.RequestInput(**one) for one in inputs])


@pytest.mark.parametrize("raw", [False, True])
def test_a_prediction_is_what_the_model_answers(mlserver: Any, loss: Any, raw: bool) -> None:
    """To the bit, however its bytes came, under the request's id."""
    model = hosted("tiny")
    reply = asyncio.run(loss.predict(_request(mlserver, _arrays(model), raw=raw)))
    assert (reply.id, reply.model_name, reply.model_version) == ("7", "loss", "1")
    tensors = [
        InferTensor(name=o.name, shape=o.shape, datatype=mlserver.types.Datatype(o.datatype).value, data=o.data.root)
        for o in reply.outputs
    ]
    found, expected = decode_tensors(tensors, b""), model.infer(ModelKind.LOSS, _arrays(model))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_refusals_are_errors_of_the_clients(mlserver: Any, loss: Any) -> None:
    """What the model refuses has its status and its words; data that do not fit their shape are a bad request."""
    arrays = _arrays(hosted("tiny"))
    with pytest.raises(mlserver.errors.MLServerError, match="t is missing") as refused:
        asyncio.run(loss.predict(_request(mlserver, {name: a for name, a in arrays.items() if name != "t"})))
    assert refused.value.status_code == 422
    spoiled = _request(mlserver, arrays)
    spoiled.inputs[-2].shape = [5]
    with pytest.raises(mlserver.errors.MLServerError, match="do not fit") as bad:
        asyncio.run(loss.predict(spoiled))
    assert bad.value.status_code == 400


def test_a_runtime_says_when_it_is_not_ready(mlserver: Any) -> None:
    """Before the weights are there it asks for patience."""
    with pytest.raises(mlserver.errors.MLServerError, match="being loaded") as error:
        asyncio.run(_runtime(mlserver, "loss").metadata())
    assert error.value.status_code == 503


def test_the_metadata_hold_the_card(loss: Any) -> None:
    """A client needs no mapping file, and is not offered concepts."""
    told = asyncio.run(loss.metadata())
    card = getattr(told.parameters, CARD_PARAMETER)
    assert ModelCard.model_validate_json(card) == hosted("tiny").card
    assert "concept" not in {tensor.name for tensor in told.inputs}
