"""The engine on NVIDIA Triton, through PyTriton: `python -m server_stub.hosting.triton tiny --http-port 8000`.

Triton listens on loopback alone unless told otherwise; it has no keys of its own, so put a proxy that has them before
it. The client needs the mapping file that `server_stub.hosting.mapping` prints.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from blackbox_ti.oip_card import ModelKind
from blackbox_ti.oip_codec import DATATYPES
from blackbox_ti.oip_wire import TensorMetadata
from server_stub.hosting.model import HostedModel, hosted
from server_stub.oip_contract import OPTIONAL_INPUTS

__all__ = ["bind", "main"]

Requests = Sequence[Any]


def _tensor(declared: TensorMetadata) -> Tensor:
    dtype: Any = np.bytes_ if declared.datatype == "BYTES" else DATATYPES[declared.datatype].type
    return Tensor(
        name=declared.name, dtype=dtype, shape=tuple(declared.shape), optional=declared.name in OPTIONAL_INPUTS
    )


def _infer(model: HostedModel, kind: ModelKind) -> Callable[[Requests], list[dict[str, NDArray[Any]]]]:
    def infer(requests: Requests) -> list[dict[str, NDArray[Any]]]:
        """Answer requests one by one: their banks and shapes differ, so they are no batch."""
        return [model.infer(kind, dict(request)) for request in requests]

    return infer


def bind(triton: Triton, model: HostedModel) -> None:
    """Give Triton the two models of the engine, each with the tensors it takes and gives."""
    for kind in ModelKind:
        metadata = model.metadata(kind)
        triton.bind(
            model_name=kind.value,
            infer_func=_infer(model, kind),
            inputs=[_tensor(tensor) for tensor in metadata.inputs or []],
            outputs=[_tensor(tensor) for tensor in metadata.outputs or []],
            config=ModelConfig(batching=False),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a diffusers directory, a hub id, or tiny")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    given = parser.parse_args(argv)
    config = TritonConfig(
        http_address=given.host,
        http_port=given.http_port,
        grpc_address=given.host,
        grpc_port=given.grpc_port,
        metrics_address=given.host,
        metrics_port=given.metrics_port,
    )
    model = hosted(given.model)
    with Triton(config=config) as triton:
        bind(triton, model)
        triton.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
