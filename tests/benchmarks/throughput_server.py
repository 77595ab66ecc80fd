"""The server as a process of its own on a benchmark's model: `python -m tests.benchmarks.throughput_server JSON`.

The JSON holds `options` of the model and `settings` of the server.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from server_stub.serving import run
from server_stub.settings import Settings
from tests.benchmarks.throughput_questions import Options
from tests.e2e.server_processes import serving

__all__ = ["served"]

_LIMITS: Final = {"max_concurrency": 32, "max_candidates": 512}
_SETTINGS: Final = {"port": 0, "requests_per_second": 10_000, "requests_burst": 10_000, "log_level": "warning"}


@contextmanager
def served(options: Options, **settings: Any) -> Iterator[tuple[str, int]]:
    """Yield the address and process id of a server of the model, warm, with room for all clients of a benchmark."""
    given = {"options": asdict(options), "settings": _SETTINGS | {"limits": _LIMITS} | settings}
    command = [sys.executable, "-m", "tests.benchmarks.throughput_server", json.dumps(given)]
    with tempfile.TemporaryDirectory() as folder, serving(command, Path(folder) / "log") as server:
        if not server.url:
            raise RuntimeError(f"the server did not start:\n{server.log.read_text()}")
        yield server.url, server.process.pid


def main(text: str) -> int:
    """Serve until a signal."""
    given = json.loads(text)
    if given["options"]["threads"] is not None:
        torch.set_num_threads(given["options"]["threads"])
    return run(Settings(**given["settings"]), lambda: Options(**given["options"]).engine())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
