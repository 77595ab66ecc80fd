"""A run's folder: its book, its result, and the rules on which folders may be used."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from blackbox_ti.booked import BookedEndpoint
from blackbox_ti.budget import Caps
from blackbox_ti.concept import Concept
from blackbox_ti.embedding import save_embedding
from blackbox_ti.endpoint import RemoteEndpoint
from blackbox_ti.errors import OutputError
from blackbox_ti.inversion import InversionResult
from blackbox_ti.ledger import Ledger, RunIdentity
from blackbox_ti.settings import InversionSettings
from blackbox_ti.transport import Attempt

__all__ = [
    "LEDGER_NAME",
    "RESULT_NAME",
    "check_folder",
    "recall_command",
    "record_command",
    "result_record",
    "run_endpoint",
    "save_result",
]

LEDGER_NAME = "ledger.sqlite"
RESULT_NAME = "result.json"
COMMAND_NAME = "command.json"


def check_folder(directory: Path) -> None:
    """Make the folder, or make sure that it is empty or holds a run.

    Raises:
        OutputError: it holds other things, is a file, or cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        used = any(directory.iterdir())
    except OSError as error:
        raise OutputError(f"{directory} cannot be used ({error.strerror}); choose another --out") from error
    if used and not (directory / LEDGER_NAME).exists() and not (directory / COMMAND_NAME).exists():
        raise OutputError(f"{directory} is in use and holds no run of ours; choose an empty or new --out")


# What names a secret, or how to speak: neither is part of what a run is.
_NOT_RECORDED = ("run", "resume", "dry_run", "json", "quiet", "api_key_file", "api_key_command", "client_key")


def record_command(directory: Path, args: argparse.Namespace) -> None:
    """Write what the run was begun with, for `--resume`; no key is in it."""
    given = {k: str(v.resolve()) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in _NOT_RECORDED}
    (directory / COMMAND_NAME).write_text(json.dumps(given, indent=2) + "\n")


def recall_command(directory: Path, args: argparse.Namespace) -> None:
    """Set what `args` leaves out to what the run in `directory` was begun with.

    Raises:
        OutputError: the folder holds no run.
    """
    try:
        given = json.loads((directory / COMMAND_NAME).read_text())
    except (OSError, ValueError) as error:
        raise OutputError(f"{directory} holds no run to go on with; give --endpoint, --images and --out") from error
    for name, value in given.items():
        if hasattr(args, name) and getattr(args, name) in (None, False, "<sks>"):
            is_path = name in ("images", "out", "initial_embedding", "ca_file", "client_certificate")
            setattr(args, name, Path(value) if is_path and value is not None else value)


@contextlib.contextmanager
def run_endpoint(
    directory: Path,
    connect: Callable[[Callable[[Attempt], None]], RemoteEndpoint],
    settings: InversionSettings,
    concept: Concept,
    caps: Caps,
) -> Iterator[BookedEndpoint]:
    """Open the folder's book, begin this run or go on with it, and yield the endpoint that books every call.

    `connect` makes the endpoint, given what is to hear of every attempt on the wire.

    Raises:
        OutputError: the folder is in use by something else.
        ResumeError: the folder holds another run.
    """
    check_folder(directory)
    pictures = [hashlib.sha256(png).hexdigest() for png in concept.pngs]
    with Ledger(directory / LEDGER_NAME) as ledger, contextlib.closing(connect(ledger.record_attempt)) as endpoint:
        ledger.begin(RunIdentity(endpoint=endpoint.url, settings=settings.model_dump(), pictures=pictures), caps)
        yield BookedEndpoint(endpoint, ledger)


def result_record(result: InversionResult) -> dict[str, Any]:
    """Return what `result.json` holds: everything but the embeddings themselves."""
    return {
        "placeholder_token": result.placeholder_token,
        "start": result.start,
        "stop_reason": result.stop_reason.value,
        "objective": result.objective,
        "scorer": result.scorer,
        "heldout_score_before": result.heldout_score_before,
        "heldout_score_after": result.heldout_score_after,
        "heldout_loss_before": result.heldout_loss_before,
        "heldout_loss_after": result.heldout_loss_after,
        "forwards": result.forwards,
        "queries": result.queries,
        "seconds": round(result.seconds, 3),
        "host_changed": result.host_changed,
        "settings": result.settings.model_dump(),
        "plan": dataclasses.asdict(result.plan),
        "model": {"name": result.card.model, "family": result.card.family, "fingerprint": result.card.fingerprint},
        "pictures_sha256": result.concept_sha256,
        "history": [dataclasses.asdict(p) for p in result.history],
    }


def save_result(directory: Path, result: InversionResult) -> Path:
    """Write the embedding's files and `result.json`; return the path of the embedding's own.

    Raises:
        OutputError: the folder cannot be written.
    """
    record = result_record(result)
    unsteady = ("history", "seconds", "host_changed")
    provenance = {k: v for k, v in record.items() if k not in unsteady}
    path = save_embedding(directory, result.placeholder_token, result.embedding, provenance, family=result.card.family)
    try:
        (directory / RESULT_NAME).write_text(json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"cannot write {directory / RESULT_NAME} ({error.strerror})") from error
    return path
