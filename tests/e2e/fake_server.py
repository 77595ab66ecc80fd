"""The server as a process on the fake engine: `python -m tests.e2e.fake_server JSON`, the JSON its settings.

Besides settings it may hold `seconds` that every work takes, and `held`, a file that the engine makes when it begins
to score and that has to be gone before it ends.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from blackbox_ti.errors import InputError
from server_stub.engine import LossJob
from server_stub.serving import run
from server_stub.settings import Settings
from tests.server_stub.fake_engine import Array, FakeEngine

__all__ = ["HeldEngine", "main"]


class HeldEngine(FakeEngine):
    """A fake engine that makes the file `held` when it begins to score, and ends once the file is gone."""

    def __init__(self, held: Path, *, seconds: float) -> None:
        super().__init__(seconds=seconds)
        self._held = held

    def losses(self, job: LossJob) -> Array:
        """Return losses (B, n) when let go."""
        self._held.touch()
        while self._held.exists():
            time.sleep(0.01)
        return super().losses(job)


def main(text: str) -> int:
    """Serve until a signal; an unusable setting is exit code 2."""
    given: dict[str, Any] = json.loads(text)
    seconds, held = float(given.pop("seconds", 0)), given.pop("held", None)
    engine = FakeEngine(seconds=seconds) if held is None else HeldEngine(Path(held), seconds=seconds)
    try:
        return run(Settings(**given), lambda: engine)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
