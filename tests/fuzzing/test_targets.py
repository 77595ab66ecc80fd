"""Coverage-guided fuzzing finds only typed errors; a minute a target, in processes of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="coverage-guided fuzzing needs atheris: pip install atheris")

SECONDS = 60


@pytest.mark.slow
@pytest.mark.parametrize("target", ["picture", "problem", "record", "tensor"])
def test_only_typed_errors(target: str, tmp_path: Path) -> None:
    """No crash, no time-out, no untyped error, no more memory than a small server has."""
    command = [sys.executable, "-m", "tests.fuzzing.targets", target, str(tmp_path / "corpus")]
    limits = [
        f"-max_total_time={SECONDS}",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-max_len=4096",
        "-print_final_stats=1",
    ]
    done = subprocess.run(
        [*command, *limits, f"-artifact_prefix={tmp_path}/"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    executions = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert executions is not None
    assert int(executions[1]) > 1000
    print(target, executions[1], "executions")
