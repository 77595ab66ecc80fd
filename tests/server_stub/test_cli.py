"""Tests of the host's commands on a shell."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from blackbox_ti.errors import InputError
from server_stub import spending
from server_stub.accounts import USER_SCOPES, Accounts
from server_stub.cli import add_parsers, load_engine, serve_settings
from server_stub.database import Books
from server_stub.idempotency import Reservation
from server_stub.spending import Amount, Budget
from tests.server_stub.books import Clock, OneServer, order, reply
from tests.server_stub.certificates import Authority
from tests.server_stub.tiny_models import save_stable_diffusion


def parsed(*words: str) -> argparse.Namespace:
    """Return a command line's arguments."""
    parser = argparse.ArgumentParser()
    add_parsers(parser.add_subparsers(required=True))
    return parser.parse_args(words)


def run(*words: str) -> int:
    """Run a command line."""
    args = parsed(*words)
    code: int = args.run(args)
    return code


def created(capsys: pytest.CaptureFixture[str], state: Path, *options: str) -> dict[str, str]:
    """Make a key and return what was printed."""
    assert run("keys", "create", "--account", "ada", "--state", str(state), "--json", *options) == 0
    shown: dict[str, str] = json.loads(capsys.readouterr().out)
    return shown


def test_a_new_key_is_printed_once_and_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`keys create` prints the key alone on one line; nothing shows it again."""
    assert run("keys", "create", "--account", "ada", "--state", str(tmp_path)) == 0
    key = capsys.readouterr().out.strip()
    assert re.fullmatch(r"bti_[0-9a-f]{16}_[\w-]{43}", key)
    found = Accounts(Books(f"sqlite:///{tmp_path / 'books.sqlite'}")).authenticate_key(key)
    assert found is not None
    assert (found.account, found.scopes) == ("ada", USER_SCOPES)
    assert run("keys", "list", "--state", str(tmp_path)) == 0
    listing = capsys.readouterr().out
    assert (key.split("_")[1] in listing, key[-43:] in listing) == (True, False)


def test_scopes_expiry_and_budget_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The options of `keys create` end in the key and in the account's budget."""
    options = ["--scope", "loss", "--scope", "usage", "--expires", "2030-01-31T12:00:00Z"]
    caps = ["--max-forwards", "1000", "--max-price", "12.5", "--per", "day"]
    shown = created(capsys, tmp_path, *options, *caps)
    run("keys", "list", "--state", str(tmp_path), "--json")
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["id"], row["scopes"], row["expires"]) == (shown["id"], "loss,usage", "2030-01-31T12:00:00+00:00")
    books = Books(f"sqlite:///{tmp_path / 'books.sqlite'}")
    assert spending.left(books, Accounts(books).ensure("ada"), "2026-01-01") == Budget(1000, None, 12_500_000)
    books.close()


def test_an_expired_and_a_revoked_key_do_not_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--expires 0s` is over at once, and `keys revoke` ends a key; revoking what is not there is an error."""
    expired = created(capsys, tmp_path, "--expires", "0s")["key"]
    revoked = created(capsys, tmp_path)
    assert run("keys", "revoke", revoked["id"], "--state", str(tmp_path)) == 0
    accounts = Accounts(Books(f"sqlite:///{tmp_path / 'books.sqlite'}"))
    assert accounts.authenticate_key(expired) is None
    assert accounts.authenticate_key(revoked["key"]) is None
    with pytest.raises(InputError, match="keys list"):
        run("keys", "revoke", "0" * 16, "--state", str(tmp_path))


def test_a_client_certificate_becomes_a_credential(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--certificate` registers a PEM file and prints an id, not a key; a second time is an error."""
    pair = Authority(tmp_path, "authority").issue("ada", client=True)
    options = ["--certificate", str(pair.certificate)]
    assert set(created(capsys, tmp_path, *options)) == {"id"}
    with pytest.raises(InputError, match="already belongs"):
        created(capsys, tmp_path, *options)
    with pytest.raises(InputError, match="no certificate"):
        created(capsys, tmp_path, "--certificate", str(pair.key))
    with pytest.raises(InputError, match="cannot read"):
        created(capsys, tmp_path, "--certificate", str(tmp_path / "none"))


def test_a_budget_replaces_the_one_before(tmp_path: Path) -> None:
    """`keys budget` sets the caps of a period; caps not named are lifted."""
    state = ["--account", "ada", "--state", str(tmp_path)]
    assert run("keys", "budget", *state, "--max-forwards", "5") == 0
    assert run("keys", "budget", *state, "--max-queries", "7") == 0
    books = Books(f"sqlite:///{tmp_path / 'books.sqlite'}")
    assert spending.left(books, Accounts(books).ensure("ada"), "2026-01-01") == Budget(None, 7, None)
    books.close()


def test_usage_sums_charges_by_account_day_and_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`usage` prints one row an account, day and model, in JSON or as a table; an empty book prints nothing."""
    clock = Clock()
    server = OneServer(tmp_path, clock)
    account = server.accounts.ensure("ada")
    for index, forwards in enumerate((4, 5, 6)):
        held = server.operations.begin(order(account, f"k{index}"), Amount(forwards, 1, 2))
        assert isinstance(held, Reservation)
        server.operations.settle(held, held.amount, reply)
        clock.now += 86_400 * (index == 1)
    server.die()
    assert run("usage", "--state", str(tmp_path), "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["account"], r["day"], r["model"], r["requests"], r["forwards"], r["price_micros"]) for r in rows] == [
        ("ada", "2026-03-31", "fake", 2, 9, 4),
        ("ada", "2026-04-01", "fake", 1, 6, 2),
    ]
    assert run("usage", "--state", str(tmp_path)) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert (header.split()[:3], len(lines)) == (["account", "day", "model"], 2)
    assert run("usage", "--state", str(tmp_path / "empty")) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["keys", "list"], "--state"),
        (["keys", "create", "--account", "a b", "--state", "STATE"], "account's name"),
        (["keys", "list", "--database", "postgresql://127.0.0.1:1/none"], "cannot be opened"),
        (["serve", "--port", "70000"], "port"),
        (["serve", "--micro-batch", "some"], "micro_batch"),
        (["serve", "--resolution", "20"], "multiple of 8"),
        (["serve", "--port", "0", "--device", "cpu", "--cuda-graphs"], "--compile without them"),
        (["serve", "--port", "0", "--device", "cpu", "--offload"], "leave --offload out"),
        (["serve", "--port", "0", "--revision", "main"], "leave it out"),
        (["serve", "--port", "0", "--device", "abacus"], "use auto"),
        (["serve", "--tls-cert", "c.pem"], "tls_key"),
    ],
)
def test_a_mistake_is_an_input_error_with_advice(tmp_path: Path, words: list[str], advice: str) -> None:
    """Unusable options end in an error that says what to change."""
    with pytest.raises(InputError, match=re.escape(advice)):
        run(*(word.replace("STATE", str(tmp_path)) for word in words))


@pytest.mark.parametrize(
    "words",
    [
        ["keys", "create", "--account", "a", "--scope", "root"],
        ["keys", "create", "--account", "a", "--max-forwards", "-1"],
        ["keys", "create", "--account", "a", "--max-price", "nan"],
        ["keys", "create", "--account", "a", "--expires", "soon"],
        ["keys", "budget", "--account", "a", "--per", "week"],
        ["keys"],
        ["serve", "--dtype", "int4"],
    ],
)
def test_what_does_not_parse_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The parser's own errors end with code 2 and name the option."""
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_the_models_form_reaches_the_engine(tmp_path: Path) -> None:
    """Every option of `serve` about the model ends in the engine, and those not given in its defaults."""
    folder = str(save_stable_diffusion(tmp_path))
    words = ["--model", folder, "--device", "cpu", "--dtype", "bfloat16", "--micro-batch", "3", "--resolution", "24"]
    engine = load_engine(serve_settings(parsed("serve", *words, "--channels-last", "--int8", "--compile")))
    form = engine.placement
    assert (engine.micro_batch, engine.info.resolution, form.dtype, form.device) == (3, 24, "bfloat16", "cpu")
    assert (form.channels_last, form.int8, form.compile, form.offload, form.cuda_graphs) == (*[True] * 3, False, False)
    plain = load_engine(serve_settings(parsed("serve", "--model", folder)))
    assert (plain.info.resolution, plain.placement.dtype, plain.placement.int8) == (16, "float32", False)
    with pytest.raises(InputError, match="safetensors"):
        load_engine(serve_settings(parsed("serve", "--model", folder, "--variant", "fp16")))
