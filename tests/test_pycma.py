"""pycma imported light: what stays out, what comes back, and that the search is the same."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from blackbox_ti.pycma import absent

_SEARCH = """
import json, sys
from pathlib import Path
from blackbox_ti.search import CmaSearch, SearchSettings
import numpy as np
asked = []
for covariance in ("full", "diagonal"):
    search = CmaSearch(SearchSettings(dimension=24, popsize=8, covariance=covariance), np.random.default_rng(7))
    for _ in range(30):
        points = search.ask()
        search.tell((points**2).sum(axis=1))
    asked += search.mean.tolist()
heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"matplotlib", "scipy"})
# Not ru_maxrss, which a process has from the one that started it.
peak = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(json.dumps({"heavy": heavy, "asked": asked, "peak": peak}))
"""


def _run(before: str = "") -> dict[str, Any]:
    command = [sys.executable, "-W", "error::UserWarning", "-c", before + _SEARCH]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_search_loads_no_plots_and_no_statistics() -> None:
    """Neither the import nor sixty generations load matplotlib or scipy, though both are installed."""
    assert find_spec("matplotlib") is not None
    assert find_spec("scipy") is not None
    light = _run()
    assert light["heavy"] == []
    assert light["peak"] < 120_000  # kilobytes


def test_the_search_is_the_same_as_with_all_of_pycma() -> None:
    """Where pycma was imported whole before, it stays whole, and the search goes the same way to the bit."""
    whole, light = _run("import cma, cma.s\nassert cma.s.figsave != 'not available'\n"), _run()
    assert whole["heavy"] == ["matplotlib", "scipy"]
    assert whole["asked"] == light["asked"]


def test_what_is_absent_comes_back() -> None:
    """Inside the context the import fails, after it works again, even after an error; what was there stays there."""
    seen: list[object] = []

    def look() -> None:
        with absent("antigravity", "json"):
            seen.append(sys.modules["json"])
            __import__("antigravity")

    with pytest.raises(ModuleNotFoundError):
        look()
    assert seen == [json]
    assert "antigravity" not in sys.modules
    assert find_spec("antigravity") is not None
