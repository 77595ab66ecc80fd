"""Run folders: which may be used, and what they hold in the end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blackbox_ti.budget import Caps
from blackbox_ti.concept import load_concept
from blackbox_ti.embedding import load_embedding, read_provenance
from blackbox_ti.errors import OutputError, ResumeError
from blackbox_ti.inversion import InversionResult, invert
from blackbox_ti.run_folder import check_folder, run_endpoint, save_result
from blackbox_ti.settings import InversionSettings
from tests.fake_host import FakeHost, fake_endpoint

PICTURES = [Image.new("RGB", (8, 8), (200, 30, 30))]
SETTINGS = InversionSettings(max_forwards=700, dimension=4, sigma=1.0, initializer_token="dog", seed=2)


def _run(directory: Path, host: FakeHost, settings: InversionSettings = SETTINGS) -> InversionResult:
    concept = load_concept(PICTURES, 8)
    caps = Caps(forwards=settings.max_forwards)
    with run_endpoint(directory, lambda h: fake_endpoint(host, on_attempt=h), settings, concept, caps) as endpoint:
        return invert(endpoint, PICTURES, settings)


def test_a_new_or_empty_folder_may_be_used(tmp_path: Path) -> None:
    """It is made where it is not there."""
    check_folder(tmp_path)
    check_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    """Nothing of the user's is overwritten."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="in use"):
        check_folder(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """The error is about the output, not the operating system."""
    (tmp_path / "x").write_text("")
    with pytest.raises(OutputError, match="--out"):
        check_folder(tmp_path / "x")


def test_a_run_leaves_its_word_and_its_record(tmp_path: Path) -> None:
    """The embedding reads back, and the record tells settings, costs and why it stopped."""
    host = FakeHost()
    result = _run(tmp_path, host)
    path = save_result(tmp_path, result)
    assert np.array_equal(load_embedding(path, host.card.encoders)["text"], result.embedding["text"])
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["forwards"] == host.forwards
    assert record["settings"]["seed"] == 2
    assert record["stop_reason"] == "plan_finished"
    assert read_provenance(path)["pictures_sha256"] == result.concept_sha256


def test_the_same_run_again_asks_nothing_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    """What the book holds is not asked twice."""
    host = FakeHost()
    first = _run(tmp_path, host)
    spent = host.forwards
    again = _run(tmp_path, host)
    assert host.forwards == spent
    assert np.array_equal(first.embedding["text"], again.embedding["text"])


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    """The message says which setting differs."""
    host = FakeHost()
    _run(tmp_path, host)
    with pytest.raises(ResumeError, match="seed"):
        _run(tmp_path, host, SETTINGS.model_copy(update={"seed": 3}))
