"""The client's own share: processor time a generation and memory, of `blackbox-ti optimize` against a server.

Two runs that differ in their number of generations alone: what they differ in is the generations' own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks.machine import memory
from tests.benchmarks.throughput_engine import best_batch
from tests.benchmarks.throughput_questions import CANDIDATES, SAMPLES, Options, pictures
from tests.benchmarks.throughput_rounds import Table
from tests.benchmarks.throughput_server import served

__all__ = ["run"]

_FIXED = ["--heldout-checks", "0", "--heldout", "8", "--race", "1", "--canary-every", "0", "--seed", "0", "--quiet"]
_FEW, _MANY = 5, 45
_OVERHEAD = 200  # forwards of the start and the judging, in both runs
# The client, which leaves its own high-water mark behind: what `wait4` tells of a child counts the parent it came from.
_CLIENT = """
import atexit, pathlib, runpy, sys
status = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: status.write_text(pathlib.Path("/proc/self/status").read_text()))
runpy.run_module("blackbox_ti", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class _Run:
    wall: float
    processor: float
    peak: float
    forwards: int


def _optimize(url: str, folder: Path, generations: int) -> _Run:
    """Run the command and return seconds of wall and processor, and megabytes at the peak."""
    cap = _OVERHEAD + generations * CANDIDATES * SAMPLES
    out = folder / f"run-{time.monotonic_ns()}"
    status_file = folder / "status"
    command = [sys.executable, "-c", _CLIENT, str(status_file), "optimize", "--endpoint", url]
    command += ["--images", str(folder / "pictures")]
    command += ["--popsize", str(CANDIDATES), "--samples", str(SAMPLES), "--max-forwards", str(cap), *_FIXED]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--out", str(out), "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as stdout:
        told = stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"the client ended with exit code {process.returncode}")
    forwards = int(json.loads(told)["forwards"])
    seconds = time.perf_counter() - started
    return _Run(seconds, used.ru_utime + used.ru_stime, memory("VmHWM", status_file) / 1e6, forwards)


def run(options: Options) -> list[Table]:
    """Measure pairs of a short and a long run."""
    size = options.micro_batch or best_batch(options.engine())[0]
    pairs: list[tuple[_Run, _Run]] = []
    with tempfile.TemporaryDirectory() as name, served(replace(options, micro_batch=size)) as (url, _):
        folder = Path(name)
        (folder / "pictures").mkdir()
        for i, picture in enumerate(pictures(64)):
            picture.save(folder / "pictures" / f"{i}.png")
        for _ in range(options.rounds):
            few, many = (_optimize(url, folder, generations) for generations in (_FEW, _MANY))
            pairs.append((few, many))
    rows = {"median": _row(pairs)} | {f"pair {i + 1}": _row([pair]) for i, pair in enumerate(pairs)}
    title = f"The client's share, generations of {CANDIDATES} x {SAMPLES}, with book and budget"
    return [Table(title, rows, ["milliseconds a generation; peak in MB of the whole process, start-up included"])]


def _row(pairs: list[tuple[_Run, _Run]]) -> dict[str, float]:
    per = [(many.forwards - few.forwards) / (CANDIDATES * SAMPLES) for few, many in pairs]
    wall = [1000 * (many.wall - few.wall) / n for (few, many), n in zip(pairs, per, strict=True)]
    processor = [1000 * (many.processor - few.processor) / n for (few, many), n in zip(pairs, per, strict=True)]
    shares = [100 * own / whole for own, whole in zip(processor, wall, strict=True)]
    peak = max(run.peak for pair in pairs for run in pair)
    middle = statistics.median
    return {"wall ms": middle(wall), "processor ms": middle(processor), "share %": middle(shares), "peak MB": peak}
