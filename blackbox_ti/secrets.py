"""The API key: read from the environment, a file or a command, and kept as a secret that does not print."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from blackbox_ti.errors import InputError

__all__ = ["API_KEY_VARIABLE", "api_key_from", "load_api_key"]

API_KEY_VARIABLE: Final = "BLACKBOX_TI_API_KEY"
_MAX_LENGTH: Final = 512
_COMMAND_TIMEOUT: Final = 60.0


def api_key_from(text: str, source: str) -> SecretStr:
    """Return `text`, less surrounding white space, as a key; `source` names it in errors, which never hold the key.

    Raises:
        InputError: the key is empty, longer than 512 characters, or not printable ASCII without spaces.
    """
    key = text.strip()
    if not key:
        raise InputError(f"the API key from {source} is empty")
    if len(key) > _MAX_LENGTH or not all("!" <= c <= "~" for c in key):
        raise InputError(f"the API key from {source} is not one: expected at most {_MAX_LENGTH} printable characters")
    return SecretStr(key)


def load_api_key(
    *, environ: Mapping[str, str], file: Path | None = None, command: str | None = None
) -> SecretStr | None:
    """Return the key from `file`, else from what `command` prints, else from BLACKBOX_TI_API_KEY, else None.

    The command is split as a shell would and run without one.

    Raises:
        InputError: both a file and a command are given, one of them fails, or what it gave is not a key.
    """
    if file is not None and command is not None:
        raise InputError("give the API key by a file or by a command, not both")
    if file is not None:
        return api_key_from(_read(file), f"file {file}")
    if command is not None:
        return api_key_from(_run(command), "the key command")
    text = environ.get(API_KEY_VARIABLE)
    return None if text is None else api_key_from(text, f"variable {API_KEY_VARIABLE}")


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(16 * _MAX_LENGTH).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the API key file {file} cannot be read: {type(error).__name__}") from None


def _run(command: str) -> str:
    try:
        words = shlex.split(command)
        done = subprocess.run(words, capture_output=True, timeout=_COMMAND_TIMEOUT, check=False)  # noqa: S603 (the user's own command, no shell)
        text = done.stdout.decode("ascii")
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        # From None: a timeout's own text would hold what the command had printed.
        raise InputError(f"the API key command failed: {type(error).__name__}") from None
    if done.returncode != 0:
        raise InputError(f"the API key command failed with exit code {done.returncode}")
    return text
