"""A run's folder as one self-contained HTML page: word, pictures, curves, costs, settings, host and warnings."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from pydantic import ValidationError

from blackbox_ti.audit_report import tabulate
from blackbox_ti.budget import Caps, Cost
from blackbox_ti.concept import decode_image, encode_png
from blackbox_ti.embedding import FILE_NAME, load_embedding
from blackbox_ti.errors import BlackboxTIError, ImageError, InputError, OutputError
from blackbox_ti.ledger import Ledger
from blackbox_ti.report_facts import Facts, PictureRow, RunRecord
from blackbox_ti.report_page import render_page
from blackbox_ti.run_folder import LEDGER_NAME, RESULT_NAME
from blackbox_ti.wire import ModelCard

__all__ = ["REPORT_NAME", "add_parser", "write_report"]

REPORT_NAME: Final = "report.html"
_PICTURE_FOLDERS: Final = ("references", "pictures")
_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
_MAX_PICTURES: Final = 100
_MAX_PICTURE_BYTES: Final = 20_000_000
_TILE: Final = 256
_SEED: Final = re.compile(r"[-_ ]?seed[-_ ]?\d+$|[-_ ]?\d+$")


def write_report(directory: Path) -> Path:
    """Write `report.html` into a run's folder, or a demo's that holds one as `run`, and return its path.

    Pictures shown are those in the folder's own `references` and `pictures`.

    Raises:
        InputError: the folder holds no finished run, or its record cannot be read.
        LedgerError: its book cannot be read.
        OutputError: the page cannot be written.
    """
    run = directory if (directory / RESULT_NAME).exists() else directory / "run"
    page = render_page(_facts(run, directory))
    path = directory / REPORT_NAME
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror}); make the folder writable") from error
    return path


def _facts(run: Path, pictures: Path) -> Facts:
    record = _record(run)
    rows = list(_picture_rows(pictures))
    book = run / LEDGER_NAME
    if not book.exists():
        empty: dict[str, Any] = {"endpoint": None, "card": None, "caps": Caps(), "lines": (), "total": Cost()}
        return Facts(record=record, **empty, open_calls=0, faults=(), norms={}, pictures=rows)
    with Ledger(book, create=False) as ledger:
        faults = ledger.faults()
        operations = [] if faults else ledger.operations()
        settled = [o for o in operations if o.state == "settled"]
        card = None if faults else ledger.model_card()
        return Facts(
            record=record,
            endpoint=None if faults else ledger.endpoint(),
            card=card,
            caps=Caps() if faults else ledger.caps(),
            lines=tabulate(operations),
            total=sum((o.cost for o in settled), Cost()),
            open_calls=sum(o.state in {"reserved", "unknown"} for o in operations),
            faults=faults,
            norms=_norms(run, card),
            pictures=rows,
        )


def _record(run: Path) -> RunRecord:
    path = run / RESULT_NAME
    try:
        return RunRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{run} holds no finished run ({RESULT_NAME} is missing); finish it first") from error
    except (ValidationError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a run's record; resume the run to write it anew") from error


def _norms(run: Path, card: ModelCard | None) -> dict[str, list[float]]:
    """The L2 norms of the word's vectors by encoder; none where its file is gone or no longer reads."""
    if card is None:
        return {}
    try:
        embedding = load_embedding(run / FILE_NAME, card.encoders)
    except BlackboxTIError:
        return {}
    return {name: [float(norm) for norm in np.linalg.norm(rows, axis=1)] for name, rows in embedding.items()}


def _picture_rows(directory: Path) -> Iterator[PictureRow]:
    """Yield the pictures of the folders shown: those whose names differ by a number or a seed alone, side by side."""
    left = _MAX_PICTURES
    for folder in _PICTURE_FOLDERS:
        rows: dict[str, list[tuple[str, bytes]]] = {}
        for path in sorted((directory / folder).glob("*"))[:left]:
            tile = _tile(path)
            if tile is not None:
                rows.setdefault(_SEED.sub("", path.stem), []).append((path.name, tile))
        left -= sum(map(len, rows.values()))
        for name, tiles in rows.items():
            yield PictureRow(f"{folder}: {name}" if name else folder, tiles)


def _tile(path: Path) -> bytes | None:
    """Return a picture as a small PNG without metadata, or None where the file is no picture that can be read."""
    try:
        if path.suffix.lower() not in _SUFFIXES or path.stat().st_size > _MAX_PICTURE_BYTES:
            return None
        image = decode_image(path.read_bytes(), path.name)
    except (OSError, ImageError):
        return None
    image.thumbnail((_TILE, _TILE), Image.Resampling.LANCZOS)
    return encode_png(image)


def add_parser(commands: Any) -> None:
    """Add `report DIR` to the command line's subparsers; its `run` takes the parsed arguments, returns an exit code."""
    parser: argparse.ArgumentParser = commands.add_parser("report", help="write a run's report.html anew")
    parser.add_argument("dir", metavar="DIR", type=Path, help="the run's folder, or a demo's")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    print(write_report(arguments.dir))  # noqa: T201 - a command's output
    return 0
