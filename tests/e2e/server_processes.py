"""Start, watch and stop servers as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.server_stub.served import picture

__all__ = ["ServerProcess", "fake_server", "register", "serving"]

_ROOT = Path(__file__).parents[2]


class ServerProcess:
    """A server that was started and said where it listens; `url` is empty where it ended instead."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log.open("ab")
        self.log = log
        self.process = subprocess.Popen(
            command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=self._log, text=True, env={**os.environ}
        )
        assert self.process.stdout is not None
        self._rest: str | None = None
        self.url = self.process.stdout.readline().strip()

    def client(self, **options: Any) -> httpx.Client:
        """Return a client for the server."""
        return httpx.Client(base_url=self.url, timeout=120, **options)

    def terminate(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.wait(120)

    def close(self) -> str:
        """End the process if it still runs, and return what it printed after its first line."""
        if self.process.poll() is None:
            self.kill()
        if self._rest is None:
            assert self.process.stdout is not None
            with self.process.stdout as stdout, self._log:
                self._rest = stdout.read()
        return self._rest


@contextmanager
def serving(command: Sequence[str], log: Path) -> Iterator[ServerProcess]:
    """Yield the server that `command` starts, its stderr added to the file `log`."""
    server = ServerProcess(command, log)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def fake_server(folder: Path, **settings: Any) -> Iterator[ServerProcess]:
    """Yield a server of the fake engine with its state in `folder`."""
    given = {"port": 0, "state_dir": str(folder / "state"), **settings}
    command = [sys.executable, "-m", "tests.e2e.fake_server", json.dumps(given)]
    with serving(command, folder / "log") as server:
        yield server


def register(client: httpx.Client) -> str:
    """Register a flat picture and return the concept's id."""
    reply = client.post("/v1/concepts", json={"images": [picture()]})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["concept"])
