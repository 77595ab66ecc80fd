"""What a small request waits for while another account keeps the device busy with requests of 4,096 forwards."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.throughput_engine import bare, best_batch
from tests.benchmarks.throughput_questions import Options, client
from tests.benchmarks.throughput_rounds import Table, median_and_spread
from tests.benchmarks.throughput_server import served

__all__ = ["run"]

_SMALL = (1, 4)
_LARGE = {"tiny": (64, 64), "full-size": (8, 8)}
_ASKED = {"tiny": 40, "full-size": 6}


def _key(account: str, state: Path) -> str:
    command = [sys.executable, "-m", "blackbox_ti", "keys", "create", "--account", account, "--state", str(state)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["key"])


@contextmanager
def _saturated(ask: Callable[[int, int], int], size: tuple[int, int]) -> Iterator[None]:
    """Keep one large request at the server until the context is left."""
    stop = threading.Event()

    def saturate() -> None:
        while not stop.is_set():
            ask(*size)

    thread = threading.Thread(target=saturate)
    thread.start()
    time.sleep(1.0)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _seconds(ask: Callable[[int, int], int], count: int) -> list[float]:
    taken = []
    for _ in range(count):
        started = time.perf_counter()
        ask(*_SMALL)
        taken.append(time.perf_counter() - started)
    return taken


def run(options: Options) -> list[Table]:
    """Measure a small request alone, beside a busy account, and alone again; and one pass of the denoiser."""
    engine = options.engine()
    size = options.micro_batch or best_batch(engine)[0]
    kind = options.model if options.model in _LARGE else "tiny"
    one_pass = bare(engine, size, size)
    one_pass()
    passes = []
    for _ in range(10):
        started = time.perf_counter()
        one_pass()
        passes.append(time.perf_counter() - started)
    with tempfile.TemporaryDirectory() as folder:
        keys = {name: _key(name, Path(folder)) for name in ("small", "large")}
        with served(replace(options, micro_batch=size), state_dir=folder) as (url, _):
            small, large = (client(url, api_key=keys[name]) for name in ("small", "large"))
            _seconds(small, 3)
            alone = _seconds(small, _ASKED[kind])
            with _saturated(large, _LARGE[kind]):
                busy = _seconds(small, _ASKED[kind])
            alone += _seconds(small, _ASKED[kind])
    rows = {"one pass": passes, "alone": alone, "beside a busy account": busy}
    title = f"Seconds of a request of {_SMALL[0]} x {_SMALL[1]}, micro-batch {size}"
    return [Table(title, {name: median_and_spread(each) for name, each in rows.items()})]
