"""The server as a process on the fake engine: `python -m tests.e2e.fake_server JSON`, the JSON settings and `seconds`."""

from __future__ import annotations

import json
import sys
from typing import Any

from blackbox_ti.errors import InputError
from server_stub.serving import run
from server_stub.settings import Settings
from tests.server_stub.fake_engine import FakeEngine


def main(text: str) -> int:
    """Serve until a signal; an unusable setting is exit code 2."""
    given: dict[str, Any] = json.loads(text)
    seconds = float(given.pop("seconds", 0))
    try:
        return run(Settings(**given), lambda: FakeEngine(seconds=seconds))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
