"""Tests of mapping files, and of mappings held against metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blackbox_ti.errors import InputError
from blackbox_ti.oip_mapping import EncoderEntry, OipMapping, contract, load_mapping, signature_of
from blackbox_ti.oip_wire import ModelMetadata

TOML = """
resolution = 512
[encoders.clip_l]
norm_mean = 0.38
norm_std = 0.04
[loss]
model = "my-loss"
layout = "rows"
inputs = { embeddings = { clip_l = "emb" }, prompts = "text", t = "time", seed = "noise" }
outputs = { losses = "out" }
[limits]
max_candidates = 8
"""


def plain(**changes: Any) -> dict[str, Any]:
    """Return a mapping as plain data."""
    inputs = {"embeddings": {"clip_l": "emb"}, "prompts": "text", "t": "time", "seed": "noise"}
    return {"loss": {"model": "m", "inputs": inputs, "outputs": {"losses": "out"}}} | changes


def metadata(inputs: tuple[str, ...], outputs: tuple[str, ...]) -> ModelMetadata:
    """Return the metadata of a model with tensors of these names."""
    tensors = [[{"name": n, "datatype": "FP32", "shape": [-1]} for n in names] for names in (inputs, outputs)]
    return ModelMetadata.model_validate({"name": "m", "inputs": tensors[0], "outputs": tensors[1]})


def test_a_mapping_is_toml_or_json(tmp_path: Path) -> None:
    """The same mapping from either file."""
    toml, as_json = tmp_path / "m.toml", tmp_path / "m.json"
    toml.write_text(TOML)
    mapping = load_mapping(toml)
    as_json.write_text(mapping.model_dump_json())
    assert load_mapping(as_json) == mapping
    assert mapping.loss is not None
    assert (mapping.loss.layout, mapping.limits.max_candidates, mapping.resolution) == ("rows", 8, 512)


def test_a_host_that_says_no_limits_is_asked_one_thing_at_a_time() -> None:
    """Concurrency is for hosts that say they bear it."""
    assert OipMapping.model_validate(plain()).limits.max_concurrency == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = [", "neither TOML nor JSON"),
        ("resolution = 512", "at least one model"),
        (TOML + "[images]\nmodel = 'x'", r"images\.inputs"),
        (TOML.replace('t = "time", ', ""), r"loss\.inputs\.t"),
        (TOML.replace("layout", "lay_out"), "lay_out"),
        (TOML.replace('seed = "noise"', 'seed = "noise", image = "i"'), "rows"),
        (TOML.replace("{ clip_l =", "{ clip_g ="), "other encoders"),
        (TOML.replace("0.38", "nan"), "norm_mean"),
        (TOML.replace('{ losses = "out" }', "{}"), "one of the two"),
    ],
)
def test_a_wrong_file_names_its_entry(tmp_path: Path, text: str, told: str) -> None:
    """The user is told which line to mend."""
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        load_mapping(path)


def test_a_file_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    """So are bytes that are no text."""
    with pytest.raises(InputError, match="cannot be read"):
        load_mapping(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="neither"):
        load_mapping(tmp_path / "bytes.toml")


@pytest.mark.parametrize("stated", [{}, {"num_inference_steps": 20}])
def test_the_cost_of_pictures_is_never_left_open(stated: dict[str, int]) -> None:
    """Steps and guidance are each an input or the host's own, and not both."""
    inputs = {"embeddings": {"c": "e"}, "prompts": "p", "seed": "s"}
    images = {"model": "m", "inputs": inputs, "outputs": {"images": "i"}, **stated}
    with pytest.raises(ValueError, match="one of the two"):
        OipMapping.model_validate({"images": images})
    both = {**images, "inputs": inputs | {"num_inference_steps": "n", "guidance_scale": "g"}, "num_inference_steps": 20}
    with pytest.raises(ValueError, match="one of the two"):
        OipMapping.model_validate({"images": both})


def test_the_signature_holds_the_mapped_tensors() -> None:
    """Inputs and outputs by name."""
    model = OipMapping.model_validate(plain()).loss
    assert model is not None
    found = signature_of(model, metadata(("emb", "text", "time", "noise"), ("out", "more")))
    assert set(found) == {"emb", "text", "time", "noise", "out"}


def test_a_host_that_declares_no_tensors_is_taken_at_the_mappings_word() -> None:
    """Some servers tell no shapes."""
    model = OipMapping.model_validate(plain()).loss
    assert model is not None
    assert signature_of(model, ModelMetadata(name="m")) == {}


def test_the_contract_is_a_mapping_of_its_own_encoders() -> None:
    """Each encoder has its input, in both models, and one objective alone can be had."""
    entries = {name: EncoderEntry(norm_mean=1, norm_std=0) for name in ("a", "b")}
    both = contract(entries)
    assert both.loss is not None
    assert both.images is not None
    assert both.loss.inputs.embeddings == both.images.inputs.embeddings == {"a": "embeddings_a", "b": "embeddings_b"}
    assert contract(entries, ["images"]).loss is None
    assert json.loads(both.model_dump_json())["loss"]["unused"] == ["concept"]
