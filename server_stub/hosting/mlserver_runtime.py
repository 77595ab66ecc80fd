"""The engine on MLServer: `mlserver start server_stub/hosting/mlserver` serves the models `loss` and `images`.

A model's name says which of the two it is; its `uri` names the weights: a diffusers directory, a hub id, or `tiny`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mlserver import MLModel
from mlserver.errors import MLServerError
from mlserver.types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    ResponseOutput,
)
from numpy.typing import NDArray

from blackbox_ti.errors import WireError
from blackbox_ti.oip_card import ModelKind
from blackbox_ti.oip_codec import bytes_array, decode_tensors, encode_tensors
from blackbox_ti.oip_wire import InferTensor, TensorMetadata
from server_stub.hosting.model import HostedModel, hosted
from server_stub.problems import ProblemError

__all__ = ["BlackboxRuntime"]

_BAD_REQUEST = 400
_UNAVAILABLE = 503


class BlackboxRuntime(MLModel):
    """One of the two models; both share one engine in a process, so set `parallel_workers` to 0."""

    _model: HostedModel | None = None

    async def load(self) -> bool:
        """Load the weights and warm up."""
        parameters = self.settings.parameters
        uri = parameters.uri if parameters is not None and parameters.uri else "tiny"
        self._model = await asyncio.to_thread(hosted, uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one inference."""
        try:
            arrays = dict(_array(tensor) for tensor in payload.inputs)
            outputs = await asyncio.to_thread(self._hosted().infer, ModelKind(self.name), arrays)
        except ProblemError as error:
            raise MLServerError(str(error), error.status) from error
        except WireError as error:
            raise MLServerError(str(error), _BAD_REQUEST) from error
        tensors, _ = encode_tensors(outputs, {})
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            id=payload.id,
            outputs=[_output(tensor) for tensor in tensors],
        )

    async def metadata(self) -> MetadataModelResponse:
        """Return the tensors, and the model card among the parameters."""
        told = self._hosted().metadata(ModelKind(self.name))
        return MetadataModelResponse(
            name=self.name,
            versions=told.versions,
            platform=told.platform,
            inputs=[_declared(tensor) for tensor in told.inputs or []],
            outputs=[_declared(tensor) for tensor in told.outputs or []],
            parameters=Parameters(**(told.parameters or {})),
        )

    def _hosted(self) -> HostedModel:
        if self._model is None:
            raise MLServerError("the model is being loaded; ask again later", _UNAVAILABLE)
        return self._model


def _array(tensor: RequestInput) -> tuple[str, NDArray[Any]]:
    """Return a tensor by name; over gRPC, BYTES come as bytes, over HTTP as text."""
    data = tensor.data.root
    if isinstance(data, list) and data and isinstance(data[0], bytes):
        return tensor.name, bytes_array(data, tensor.shape)
    parameters = None if tensor.parameters is None else tensor.parameters.model_dump()
    read = InferTensor(
        name=tensor.name, shape=tensor.shape, datatype=Datatype(tensor.datatype).value, parameters=parameters, data=data
    )
    return tensor.name, decode_tensors([read], b"")[tensor.name]


def _output(tensor: InferTensor) -> ResponseOutput:
    parameters = Parameters(**tensor.parameters) if tensor.parameters else None
    return ResponseOutput(
        name=tensor.name,
        shape=tensor.shape,
        datatype=Datatype(tensor.datatype),
        parameters=parameters,
        data=tensor.data,
    )


def _declared(tensor: TensorMetadata) -> MetadataTensor:
    return MetadataTensor(name=tensor.name, datatype=Datatype(tensor.datatype), shape=tensor.shape)
