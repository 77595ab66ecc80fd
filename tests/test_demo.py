"""The demo's parts that need no server; the whole of it runs in `tests/e2e/test_main_job.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from blackbox_ti.console import Console
from blackbox_ti.demo import DEMO_CONCEPT, run_demo
from blackbox_ti.errors import OutputError
from server_stub.tiny.world import held_out_combinations


def test_the_concept_was_never_trained_on() -> None:
    """The demo would prove nothing on a combination the model knows."""
    assert DEMO_CONCEPT in held_out_combinations()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    """Nothing is started, and nothing of the user's is touched."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="in use"):
        run_demo(tmp_path, seed=0, max_forwards=1000, console=Console(quiet=True))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
