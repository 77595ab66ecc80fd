"""The mapping file that is printed for servers that cannot tell the model card."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blackbox_ti.oip_card import ModelKind
from blackbox_ti.oip_mapping import OipMapping, load_mapping, signature_of
from server_stub.hosting.mapping import main, mapping_toml
from server_stub.hosting.model import HostedModel, hosted
from server_stub.settings import Settings
from tests.server_stub.fake_engine import FakeEngine


def _printed(model: HostedModel, folder: Path) -> OipMapping:
    path = folder / "m.toml"
    path.write_text(mapping_toml(model.card), encoding="utf-8")
    return load_mapping(path)


def test_the_printed_mapping_is_the_models(tmp_path: Path) -> None:
    """It reads back, fits the metadata of both models, and says of the model what the card says."""
    model = HostedModel(FakeEngine(), Settings())
    mapping = _printed(model, tmp_path)
    assert mapping.loss is not None
    assert mapping.images is not None
    signature_of(mapping.loss, model.metadata(ModelKind.LOSS))
    signature_of(mapping.images, model.metadata(ModelKind.IMAGES))
    assert (mapping.fingerprint, mapping.resolution) == (model.card.fingerprint, model.card.resolution)
    assert mapping.limits.max_norm == model.card.limits.max_norm
    assert mapping.limits.max_concurrency == 1


@pytest.mark.parametrize("objective", ["loss", "images"])
def test_only_what_is_offered_is_mapped(objective: Literal["loss", "images"], tmp_path: Path) -> None:
    """A model that does not do the other is not asked for it."""
    mapping = _printed(HostedModel(FakeEngine(), Settings(objectives=(objective,))), tmp_path)
    assert (mapping.loss is None, mapping.images is None) == (objective != "loss", objective != "images")


def test_a_host_of_ranks_is_mapped_as_one(tmp_path: Path) -> None:
    """Its output fits what the model says it answers."""
    model = HostedModel(FakeEngine(), Settings(reply_mode="rank"))
    mapping = _printed(model, tmp_path)
    assert mapping.loss is not None
    signature_of(mapping.loss, model.metadata(ModelKind.LOSS))


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


CARD = HostedModel(FakeEngine(), Settings()).card


@settings(max_examples=40)
@example("\x7f\U0001f408", '"\\\n', 1e-3)
@given(WORDS, WORDS, st.floats(1e-3, 1e9))
def test_whatever_a_model_is_called_the_file_is_toml(name: str, family: str, norm: float) -> None:
    """Quotes, line ends and letters of any alphabet come back as they were."""
    limits = CARD.limits.model_copy(update={"max_norm": norm})
    told: dict[str, Any] = tomllib.loads(
        mapping_toml(CARD.model_copy(update={"model": name, "family": family, "limits": limits}))
    )
    assert (told["name"], told["family"], told["limits"]["max_norm"]) == (name, family, norm)


def test_the_command_prints_the_mapping_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    """What it writes is the file, and nothing else."""
    assert main(["tiny"]) == 0
    printed = capsys.readouterr().out
    assert printed == mapping_toml(hosted("tiny").card)
