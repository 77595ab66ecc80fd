"""The host's commands: `serve`, `keys`, and `usage`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr, ValidationError

from blackbox_ti.errors import InputError
from server_stub.accounts import USER_SCOPES, Accounts, Scope
from server_stub.database import Books, BooksUnavailableError
from server_stub.host import books_at
from server_stub.problems import describe_validation
from server_stub.serving import run as run_server
from server_stub.settings import Settings
from server_stub.spending import Budget, Period, set_budget
from server_stub.tls import certificate_der
from server_stub.usage import usage_table

if TYPE_CHECKING:
    from server_stub.diffusers_engine import DiffusersEngine

__all__ = ["add_parsers", "load_engine", "serve_settings"]

_OF_THE_ENGINE: Final = (
    *("revision", "variant", "allow_pickle", "device", "dtype", "micro_batch", "resolution"),
    *("channels_last", "compile", "cuda_graphs", "int8", "offload"),
)
_DURATION: Final = re.compile(r"(\d{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def add_parsers(subparsers: Any) -> None:
    """Add `serve`, `keys` and `usage` to the sub-parsers of a command line; each sets `run(args) -> int`."""
    _add_serve(subparsers.add_parser("serve", help="serve a model"))
    _add_keys(subparsers.add_parser("keys", help="make, list and revoke keys, set budgets"))
    usage = subparsers.add_parser("usage", help="what was charged, by account, day and model")
    _add_state(usage)
    usage.add_argument("--json", action="store_true", help="print JSON")
    usage.set_defaults(run=_usage)


def _add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", metavar="DIR", type=Path, dest="state_dir", help="the server's state folder")
    parser.add_argument("--database", metavar="URL", dest="database_url", help="SQLAlchemy URL of the books' database")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    unset = argparse.SUPPRESS
    parser.add_argument("--host", default=unset, help="address to bind (127.0.0.1)")
    parser.add_argument("--port", type=int, default=unset, help="port to bind; 0 picks a free one (8900)")
    parser.add_argument("--model", default=unset, metavar="NAME|DIR", help="bundled model, directory or hub id (tiny)")
    _add_form(parser)
    parser.add_argument("--vocabulary", action="store_true", default=unset, help="offer the token table")
    parser.add_argument("--reply-mode", choices=["exact", "rounded", "rank"], default=unset, help="how losses go out")
    parser.add_argument("--reply-digits", type=int, default=unset, help="significant digits of rounded losses (4)")
    parser.add_argument("--tls-cert", type=Path, default=unset, metavar="FILE", help="certificate chain, PEM")
    parser.add_argument("--tls-key", type=Path, default=unset, metavar="FILE", help="its key, PEM")
    parser.add_argument("--tls-client-ca", type=Path, default=unset, metavar="FILE", help="CAs of client certificates")
    parser.add_argument("--tls-client-auth", choices=["required", "optional"], default=unset, help="(required)")
    parser.add_argument("--behind-tls-proxy", action="store_true", default=unset, help="a proxy in front ends TLS")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default=unset, help="(info)")
    _add_state(parser)
    parser.set_defaults(run=_serve)


def _add_form(parser: argparse.ArgumentParser) -> None:
    """Add what a model is loaded from, and the form it takes on its device."""
    unset = argparse.SUPPRESS
    parser.add_argument("--revision", default=unset, help="branch, tag or commit of a hub id")
    parser.add_argument("--variant", default=unset, help="of the weights' files, like fp16")
    parser.add_argument("--device", default=unset, help="auto, cpu, cuda, cuda:1, mps (auto)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default=unset, help="(float32)")
    parser.add_argument("--micro-batch", default=unset, metavar="N|auto", help="rows of a pass; auto measures at start")
    parser.add_argument("--resolution", type=int, default=unset, metavar="PIXELS", help="of losses (the model's own)")
    for name, meaning in {
        "allow-pickle": "load weights that are no safetensors",
        "channels-last": "store convolutions with channels last",
        "compile": "compile the denoiser for the shape of losses; starting takes minutes longer",
        "cuda-graphs": "compile it, and replay it as one CUDA graph",
        "int8": "keep the weights of denoiser and text encoders in int8",
        "offload": "keep on the GPU only the part of the model at work",
    }.items():
        parser.add_argument(f"--{name}", action="store_true", default=unset, help=meaning)


def _serve(args: argparse.Namespace) -> int:
    settings = serve_settings(args)
    return run_server(settings, partial(load_engine, settings))


def serve_settings(args: argparse.Namespace) -> Settings:
    """Return the settings that `serve` was given.

    Raises:
        InputError: they do not fit together.
    """
    return _settings(**{name: value for name, value in vars(args).items() if name in Settings.model_fields})


def load_engine(settings: Settings) -> DiffusersEngine:
    """Return the engine of the settings' model, in the form they give it. Raises as `DiffusersEngine.load` does."""
    from server_stub.diffusers_engine import DiffusersEngine

    return DiffusersEngine.load(settings.model, **{name: getattr(settings, name) for name in _OF_THE_ENGINE})


def _settings(**given: Any) -> Settings:
    """Return the settings of the environment, overridden by what was given.

    Raises:
        InputError: they do not fit together.
    """
    known = {name: value for name, value in given.items() if value is not None}
    if "database_url" in known:
        known["database_url"] = SecretStr(known["database_url"])
    try:
        return Settings(**known)
    except ValidationError as error:
        raise InputError(f"these settings do not work: {describe_validation(error)}") from error


def _books(args: argparse.Namespace) -> Books:
    """Return the books of the state folder or database that the command line or the environment names."""
    settings = _settings(state_dir=args.state_dir, database_url=args.database_url)
    if settings.state_dir is None and settings.database_url is None:
        raise InputError("say whose books: give --state DIR, as for `blackbox-ti serve`, or --database URL")
    folder = settings.state_dir or Path()
    try:
        if settings.state_dir is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return books_at(settings, folder)
    except (BooksUnavailableError, OSError) as error:
        raise InputError("the books cannot be opened: check --state or --database") from error


def _add_keys(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a key for an account, shown once")
    create.add_argument("--account", required=True, metavar="NAME", help="whose it is; a new name is a new account")
    create.add_argument("--scope", action="append", type=Scope, choices=list(Scope), help="may be given several times")
    create.add_argument("--expires", type=_moment, metavar="WHEN", help="30d, 12h, or an ISO 8601 time")
    create.add_argument("--certificate", type=Path, metavar="PEM", help="take this client certificate instead of a key")
    _add_caps(create)
    create.set_defaults(run=_create)
    listing = commands.add_parser("list", help="list keys and certificates")
    listing.set_defaults(run=_list)
    revoke = commands.add_parser("revoke", help="end a key or certificate from now on")
    revoke.add_argument("id", help="its id, as `keys list` shows it")
    revoke.set_defaults(run=_revoke)
    budget = commands.add_parser("budget", help="set an account's caps for a period; caps not given are none")
    budget.add_argument("--account", required=True, metavar="NAME", help="whose budget")
    _add_caps(budget)
    budget.set_defaults(run=_budget)
    for command in (create, listing, revoke, budget):
        _add_state(command)
        command.add_argument("--json", action="store_true", help="print JSON")


def _add_caps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-forwards", type=_count, metavar="N", help="denoiser passes")
    parser.add_argument("--max-queries", type=_count, metavar="N", help="candidates scored and images made")
    parser.add_argument("--max-price", type=_micros, metavar="X", help="money, in the currency of the prices")
    parser.add_argument("--per", type=Period, choices=list(Period), default=Period.TOTAL, help="(total)")


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**62:
        raise argparse.ArgumentTypeError("a cap is a number from 0 up")
    return value


def _micros(text: str) -> int:
    try:
        value = Decimal(text) * 1_000_000
        return _count(str(int(value)))
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError("a price is a number like 12.50") from error


def _moment(text: str) -> float:
    """Return a time given as a duration from now or in ISO 8601, as seconds since 1970."""
    match = _DURATION.fullmatch(text)
    if match:
        return (datetime.now(UTC) + timedelta(**{_UNITS[match[2]]: int(match[1])})).timestamp()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError("a time is like 30d, 12h or 2030-01-31T12:00:00Z") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _create(args: argparse.Namespace) -> int:
    books = _books(args)
    accounts = Accounts(books)
    scopes = frozenset(args.scope) if args.scope else USER_SCOPES
    try:
        account_id = accounts.ensure(args.account)
        if _has_caps(args):
            set_budget(books, account_id, args.per, _caps(args))
        if args.certificate is not None:
            der = certificate_der(_read(args.certificate))
            shown = {"id": accounts.add_certificate(args.account, der, scopes=scopes, expires_at=args.expires)}
        else:
            identifier, key = accounts.create_key(args.account, scopes=scopes, expires_at=args.expires)
            shown = {"id": identifier, "key": key}
    except ValueError as error:
        raise InputError(str(error)) from error
    _say(json.dumps(shown) if args.json else "\n".join(shown.values() if "key" not in shown else [shown["key"]]))
    return 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _has_caps(args: argparse.Namespace) -> bool:
    return any(cap is not None for cap in (args.max_forwards, args.max_queries, args.max_price))


def _caps(args: argparse.Namespace) -> Budget:
    return Budget(args.max_forwards, args.max_queries, args.max_price)


def _list(args: argparse.Namespace) -> int:
    rows = [
        {
            "id": found.id,
            "account": found.account,
            "kind": found.kind,
            "scopes": ",".join(found.scopes),
            "created": _shown(found.created_at),
            "expires": _shown(found.expires_at),
            "revoked": _shown(found.revoked_at),
        }
        for found in Accounts(_books(args)).list()
    ]
    _table(rows, as_json=args.json)
    return 0


def _revoke(args: argparse.Namespace) -> int:
    if not Accounts(_books(args)).revoke(args.id):
        raise InputError(f"there is no key or certificate {args.id}; `blackbox-ti keys list` shows them")
    return 0


def _budget(args: argparse.Namespace) -> int:
    books = _books(args)
    try:
        account_id = Accounts(books).ensure(args.account)
    except ValueError as error:
        raise InputError(str(error)) from error
    set_budget(books, account_id, args.per, _caps(args))
    return 0


def _usage(args: argparse.Namespace) -> int:
    _table([asdict(row) for row in usage_table(_books(args))], as_json=args.json)
    return 0


def _shown(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _table(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print rows as a JSON list, or as columns under their names."""
    if as_json:
        _say(json.dumps(rows))
        return
    if not rows:
        return
    texts = [list(rows[0]), *([("-" if value is None else str(value)) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in texts) for column in range(len(texts[0]))]
    for line in texts:
        _say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
