"""Structured logs: one JSON object a line on stderr.

Rules of this file: a record holds only the fields named here, so keys, embeddings, pictures and prompts, which are
never among them, cannot get in; messages are constants, never built from what a client sent. What other libraries
have to say may quote anything, so of theirs only the name and level are kept.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final, TextIO

__all__ = ["FIELDS", "JsonFormatter", "configure", "logger"]

FIELDS: Final = frozenset(
    {"request_id", "account", "method", "route", "status", "seconds", "code", "forwards", "queries", "count", "reason"}
)

_OWN: Final = ("blackbox_ti", "uvicorn")

logger: Final = logging.getLogger("blackbox_ti.server")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, message, and the fields it was given.

    Of an exception it keeps the types and the places in the code, not the message, which may quote what was sent.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage() if record.name.startswith(_OWN) else "a message of a library, withheld",
        }
        entry |= {name: value for name, value in vars(record).items() if name in FIELDS}
        if record.exc_info and record.exc_info[1] is not None:
            entry["exception"] = _outline(record.exc_info[1])
        return json.dumps(entry, ensure_ascii=True, default=str)


def _outline(error: BaseException) -> list[str]:
    """Return the exception chain as types and code positions."""
    lines: list[str] = []
    current: BaseException | None = error
    while current is not None and len(lines) < 100:
        lines.append(type(current).__name__)
        lines += [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(current.__traceback__)]
        current = current.__cause__ or current.__context__
    return lines


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send all logs of the process to `stream` (stderr) as JSON: the server's from `level` up, others' warnings."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in _OWN:
        log = logging.getLogger(name)
        log.handlers, log.propagate = [], True
        log.setLevel(level.upper())
    logging.getLogger("uvicorn.access").propagate = False
