"""Which tensor of a host means what: the mapping file, and the mapping held against the host's own metadata.

A mapping is TOML or JSON:

    resolution = 512                      # needed where the host's pictures have no fixed shape
    [encoders.text_encoder]               # norms of the rows of the token table: they scale the search
    norm_mean = 0.38
    norm_std = 0.04
    [loss]
    model = "my-model-loss"
    [loss.inputs]
    embeddings = { text_encoder = "embeddings" }
    prompts = "prompts"
    t = "t"
    seed = "seed"
    pictures = "pictures"
    [loss.outputs]
    losses = "losses"

In `layout` `grid` the candidates' tensors have B rows, the samples' n, and losses are (B, n). In `rows` every tensor
has one row for each candidate and sample (B x n, a candidate's rows together), as servers that batch want it. Where an
index is mapped (`image`, `prompt`, `candidate`), what it points to is sent once; else it is repeated in every row.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from blackbox_ti.errors import InputError
from blackbox_ti.oip_wire import ModelMetadata, TensorMetadata
from blackbox_ti.wire import Limits, Prices

__all__ = [
    "EncoderEntry",
    "ImagesInputs",
    "ImagesModel",
    "ImagesOutputs",
    "LossInputs",
    "LossModel",
    "LossOutputs",
    "OipMapping",
    "Signature",
    "contract",
    "load_mapping",
    "signature_of",
]

TensorName = Annotated[str, Field(min_length=1, max_length=256)]
Positive = Annotated[int, Field(ge=1)]
Signature = Mapping[str, TensorMetadata]
Norm = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_DRAWN = ("candidate", "num_inference_steps", "guidance_scale", "negative_prompt", "height", "width")


class _Entry(BaseModel):
    """A table of the file; what is not known is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class _Inputs(_Entry):
    """`embeddings` names each encoder's input."""

    embeddings: Annotated[dict[str, TensorName], Field(min_length=1)]
    prompts: TensorName
    prompt: TensorName | None = None
    placeholder_token: TensorName | None = None
    seed: TensorName

    def names(self) -> Iterator[str]:
        """Yield the names of all tensors that are mapped."""
        for value in self.model_dump(exclude_none=True).values():
            yield from value.values() if isinstance(value, dict) else [value]


class LossInputs(_Inputs):
    """Inputs of a model that scores; without `pictures` the host knows them by itself."""

    t: TensorName
    image: TensorName | None = None
    pictures: TensorName | None = None


class ImagesInputs(_Inputs):
    """Inputs of a model that makes pictures."""

    candidate: TensorName | None = None
    num_inference_steps: TensorName | None = None
    guidance_scale: TensorName | None = None
    negative_prompt: TensorName | None = None
    height: TensorName | None = None
    width: TensorName | None = None


class LossOutputs(_Entry):
    """Losses, or a `ranking` of the candidates from the best to the worst where a host tells no losses.

    `candidates`, where mapped, says which candidates the rows of the losses, or the ranking, are for.
    """

    losses: TensorName | None = None
    ranking: TensorName | None = None
    candidates: TensorName | None = None

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if (self.losses is None) == (self.ranking is None):
            raise ValueError("map the output losses, or the output ranking: one of the two")
        return self


class ImagesOutputs(_Entry):
    """The pictures: BYTES of PNG, JPEG or WebP files, or (N, H, W, 3) of UINT8, or of floats from 0 to 1."""

    images: TensorName


class _Model(_Entry):
    """A model of the host; `unused` lists inputs of it that may stay out of a request."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    version: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    layout: Literal["grid", "rows"] = "grid"
    unused: tuple[TensorName, ...] = ()


class LossModel(_Model):
    """A model that scores."""

    inputs: LossInputs
    outputs: LossOutputs

    @model_validator(mode="after")
    def _rows_have_no_index(self) -> Self:
        if self.layout == "rows" and (self.inputs.image or self.inputs.prompt):
            raise ValueError("in the layout rows every row has its picture and prompt: map no image and no prompt")
        return self


class ImagesModel(_Model):
    """A model that makes pictures; steps and guidance that no input sets are the host's own and stated here."""

    inputs: ImagesInputs
    outputs: ImagesOutputs
    num_inference_steps: Positive | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=50)] | None = None

    @model_validator(mode="after")
    def _rows_have_no_index(self) -> Self:
        if self.layout == "rows" and (self.inputs.candidate or self.inputs.prompt):
            raise ValueError("in the layout rows every row has its embedding and prompt: map no index")
        return self

    @model_validator(mode="after")
    def _cost_is_known(self) -> Self:
        for name in ("num_inference_steps", "guidance_scale"):
            if (getattr(self.inputs, name) is None) == (getattr(self, name) is None):
                raise ValueError(f"map {name} to an input, or state the host's own: one of the two")
        return self


class EncoderEntry(_Entry):
    """A text encoder: the mean and spread of the norms of its token embeddings; `dim` where metadata leave it open."""

    norm_mean: Norm
    norm_std: Norm
    dim: Positive | None = None


class OipMapping(_Entry):
    """A mapping file; `binary` null means as the host says, `fingerprint` null means one of the host's metadata."""

    name: str | None = None
    family: str = "unknown"
    prediction_type: str = "unknown"
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    resolution: Positive | None = None
    binary: bool | None = None
    encoders: dict[str, EncoderEntry] = {}
    loss: LossModel | None = None
    images: ImagesModel | None = None
    limits: Limits = Limits(max_concurrency=1)
    prices: Prices = Prices()

    @model_validator(mode="after")
    def _encoders_agree(self) -> Self:
        models = [model for model in (self.loss, self.images) if model is not None]
        if not models:
            raise ValueError("map at least one model: [loss] or [images]")
        for model in models:
            if self.encoders and set(model.inputs.embeddings) != set(self.encoders):
                raise ValueError("the embeddings' inputs are for other encoders than [encoders.*] lists")
        return self


def load_mapping(path: Path) -> OipMapping:
    """Return the mapping in a TOML file, or a JSON file by its suffix.

    Raises:
        InputError: the file cannot be read, or is no mapping; the message names the first entry that is wrong.
    """
    try:
        raw = path.read_bytes()
        if path.suffix.lower() == ".json":
            return OipMapping.model_validate_json(raw)
        return OipMapping.model_validate(tomllib.loads(raw.decode()))
    except OSError as error:
        raise InputError(f"the mapping {path} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"the mapping {path}: {where}: {first['msg']}") from error
    except ValueError as error:
        raise InputError(f"the mapping {path} is neither TOML nor JSON: {error}") from error


def signature_of(model: LossModel | ImagesModel, metadata: ModelMetadata) -> Signature:
    """Return the inputs' and outputs' metadata by name, empty where the host tells none.

    Raises:
        InputError: the mapping names a tensor that the model lacks, or leaves out an input that it has.
    """
    inputs = {tensor.name: tensor for tensor in metadata.inputs or []}
    outputs = {tensor.name: tensor for tensor in metadata.outputs or []}
    mapped = list(model.inputs.names())
    wanted = list(model.outputs.model_dump(exclude_none=True).values())
    _check_names(model.model, "input", mapped, inputs)
    _check_names(model.model, "output", wanted, outputs)
    missing = [name for name in inputs if name not in {*mapped, *model.unused}]
    if missing:
        told = ", ".join(name[:64] for name in missing)
        raise InputError(f"model {model.model!r} takes inputs that the mapping leaves out ({told}): map them, or list "
                         "them under `unused` if the model can do without")  # fmt: skip
    return {**{name: inputs[name] for name in mapped if inputs}, **{name: outputs[name] for name in wanted if outputs}}


def _check_names(model: str, kind: str, mapped: list[str], known: Mapping[str, Any]) -> None:
    absent = [name for name in mapped if known and name not in known]
    if absent:
        has = ", ".join(sorted(name[:64] for name in known))
        raise InputError(f"the mapping names the {kind} {absent[0]!r}, which model {model!r} lacks; it has {has}")


def contract(
    encoders: Mapping[str, EncoderEntry], objectives: Collection[str] = ("loss", "images"), *, ranked: bool = False
) -> OipMapping:
    """Return the mapping to the tensors of this project's own server and of its examples for other servers."""
    embeddings = {name: f"embeddings_{name}" for name in encoders}
    both = {name: name for name in ("prompts", "prompt", "placeholder_token", "seed")} | {"embeddings": embeddings}
    scored = both | {name: name for name in ("t", "image", "pictures")}
    drawn = both | {name: name for name in _DRAWN}
    answer = "ranking" if ranked else "losses"
    loss_outputs = {answer: answer, "candidates": "candidates"}
    models = {
        "loss": {"model": "loss", "inputs": scored, "unused": ["concept"], "outputs": loss_outputs},
        "images": {"model": "images", "inputs": drawn, "outputs": {"images": "images"}},
    }
    offered = {name: model for name, model in models.items() if name in objectives}
    return OipMapping.model_validate({"encoders": {n: e.model_dump() for n, e in encoders.items()}, **offered})
