"""The throughput benchmark's own parts: what is measured is what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.throughput import PARTS, main
from tests.benchmarks.throughput_full_size import full_size_parts
from tests.benchmarks.throughput_rounds import Table, rate_table, rates_of
from tests.server_stub.tiny_models import clip_tokenizer


def test_the_full_size_model_has_the_size_of_stable_diffusion_1_5(tmp_path: Path) -> None:
    """Denoiser, text encoder and autoencoder have as many weights as the published model's."""
    parts = full_size_parts(clip_tokenizer(tmp_path))
    weights = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
    assert weights == {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863}


def test_every_arm_runs_in_every_round() -> None:
    """Arms run once to warm up and once a round, none twice in a row, and the reference's share is one."""
    ran: list[str] = []

    def arm(name: str, forwards: int) -> int:
        ran.append(name)
        return forwards

    rates = rates_of({"a": lambda: arm("a", 1), "b": lambda: arm("b", 9)}, 4, reference="a")
    assert ran.count("a") == ran.count("b") == 5
    assert rates["a"].share == 1
    assert rates["a"].least <= rates["a"].median <= rates["a"].most
    assert "x a" in str(rate_table("Arms", rates, reference="a"))


def test_a_table_has_a_cell_for_each_column() -> None:
    """Rows may lack columns that others have; every line is as long as the first."""
    table = Table("Sizes", {"one": {"x": 1.0}, "another": {"x": 12345.6, "y": None, "z": 0.5}})
    title, *lines = str(table).strip().splitlines()
    assert title == "Sizes"
    assert len({len(line) for line in lines}) == 1
    assert "12346" in lines[2]


def test_a_part_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown part ends with code 2 and the names of those there are."""
    with pytest.raises(SystemExit) as caught:
        main(["engine", "turbo"])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "turbo" in told
    assert all(part in told for part in PARTS)
