"""The Open Inference Protocol, version 2: its records, and bodies of JSON with bytes after it.

Rules of this file: no I/O, no policy; client and server share it. Sources: the protocol's REST specification
(open-inference-protocol, `open_inference_rest.yaml`) and its binary tensor data extension (KServe's documentation).
The tensors themselves are `blackbox_ti.oip_codec`'s.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blackbox_ti.errors import WireError

__all__ = [
    "BINARY_EXTENSION",
    "BINARY_MEDIA_TYPE",
    "HEADER_LENGTH_HEADER",
    "MAX_RANK",
    "InferReply",
    "InferRequest",
    "InferTensor",
    "Message",
    "ModelMetadata",
    "RequestedOutput",
    "ServerMetadata",
    "TensorMetadata",
    "encode_message",
    "split_body",
    "wants_binary",
]

HEADER_LENGTH_HEADER: Final = "Inference-Header-Content-Length"
BINARY_EXTENSION: Final = "binary_tensor_data"
BINARY_MEDIA_TYPE: Final = "application/octet-stream"

MAX_RANK: Final = 8

Name = Annotated[str, Field(min_length=1, max_length=256)]
Axis = Annotated[int, Field(ge=0)]
RecordT = TypeVar("RecordT", bound="_Record")


class _Record(BaseModel):
    """A record of either side: the protocol is others' too, so unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    @classmethod
    def parse(cls: type[RecordT], raw: bytes) -> RecordT:
        """Return the record in JSON bytes.

        Raises:
            WireError: they are not JSON, or not that record.
        """
        try:
            return cls.model_validate_json(raw)
        except (ValidationError, ValueError, RecursionError) as error:
            raise WireError(f"not the inference protocol's {cls.__name__}") from error


class InferTensor(_Record):
    """A tensor of a request or reply; `data` is flat or nested, and null where the bytes follow the JSON."""

    name: Name
    shape: Annotated[list[Axis], Field(max_length=MAX_RANK)]
    datatype: Name
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class RequestedOutput(_Record):
    """An output the client wants."""

    name: Name
    parameters: dict[str, Any] | None = None


class InferRequest(_Record):
    """The JSON part of `POST /v2/models/{name}/infer`; without `outputs` all are wanted."""

    id: Annotated[str, Field(max_length=256)] | None = None
    parameters: dict[str, Any] | None = None
    inputs: Annotated[list[InferTensor], Field(min_length=1, max_length=64)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=64)] | None = None


class InferReply(_Record):
    """The JSON part of the answer."""

    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[InferTensor]


class TensorMetadata(_Record):
    """An input or output of a model; an axis of -1 takes any length."""

    name: Name
    datatype: Name
    shape: Annotated[list[Annotated[int, Field(ge=-1)]], Field(max_length=MAX_RANK)]


class ModelMetadata(_Record):
    """What `GET /v2/models/{name}` says."""

    name: str
    versions: list[str] | None = None
    platform: str = ""
    inputs: list[TensorMetadata] | None = None
    outputs: list[TensorMetadata] | None = None
    parameters: dict[str, Any] | None = None


class ServerMetadata(_Record):
    """What `GET /v2` says."""

    name: str
    version: str = ""
    extensions: list[str] = []


@dataclass(frozen=True)
class Message:
    """A body: JSON, and after it the bytes of the binary tensors; `header_length` is null where there are none."""

    body: bytes
    header_length: int | None

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that say so."""
        if self.header_length is None:
            return {"Content-Type": "application/json"}
        return {"Content-Type": BINARY_MEDIA_TYPE, HEADER_LENGTH_HEADER: str(self.header_length)}


def encode_message(record: InferRequest | InferReply, payload: bytes) -> Message:
    """Return the body of a record: canonical JSON without nulls, and the bytes after it."""
    plain = record.model_dump(mode="json", exclude_none=True)
    header = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    binary = bool(payload) or any("binary_data_size" in (t.parameters or {}) for t in _tensors_of(record))
    return Message(header + payload, len(header) if binary else None)


def split_body(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    """Return the JSON and the bytes after it; `header_length` is the header of that name, where there is one.

    Raises:
        WireError: the header is no length within the body.
    """
    if header_length is None:
        return body, b""
    text = header_length.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) <= len(body)):
        raise WireError(f"{HEADER_LENGTH_HEADER} is not the length of the JSON at the body's start")
    return body[: int(text)], body[int(text) :]


def wants_binary(request: InferRequest, output: str) -> bool:
    """Return whether the client asked for an output as bytes."""
    for asked in request.outputs or []:
        if asked.name == output and "binary_data" in (asked.parameters or {}):
            return (asked.parameters or {})["binary_data"] is True
    return (request.parameters or {}).get("binary_data_output") is True


def _tensors_of(record: InferRequest | InferReply) -> list[InferTensor]:
    return record.inputs if isinstance(record, InferRequest) else record.outputs
