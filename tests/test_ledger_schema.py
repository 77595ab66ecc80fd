"""A book with anything changed in it does not verify."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blackbox_ti.attempt import Attempt
from blackbox_ti.booked import BookedEndpoint
from blackbox_ti.budget import Caps
from blackbox_ti.errors import LedgerError
from blackbox_ti.ledger import Ledger, RunIdentity
from blackbox_ti.ledger_schema import TABLES, row_hash
from tests.fake_host import FakeHost, fake_endpoint, loss_request, png


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger with rows in every table."""
    path = tmp_path_factory.mktemp("book") / "ledger.sqlite"
    with Ledger(path) as ledger:
        endpoint = BookedEndpoint(fake_endpoint(FakeHost(), on_attempt=ledger.record_attempt), ledger)
        ledger.begin(RunIdentity(endpoint="https://host.example", settings={"seed": 1}, pictures=[]), Caps(forwards=99))
        endpoint.describe()
        concept = endpoint.register_concept([png()])
        for n in range(3):
            endpoint.losses(loss_request(concept, np.full((2, 1, 8), n)), label=f"search/{n}")
    return path


def copied(book: Path, folder: Path) -> Path:
    """Return a copy of the book."""
    return Path(shutil.copy(book, folder / "ledger.sqlite"))


def dump(path: Path) -> list[Any]:
    """Return every row of every table."""
    connection = sqlite3.connect(path)
    try:
        return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in (*TABLES, "head")]
    finally:
        connection.close()


def faults_of(path: Path) -> list[str]:
    """Return what verification says of a file, an error that forbids reading it included."""
    try:
        with Ledger(path, create=False) as ledger:
            return ledger.faults()
    except LedgerError as error:
        return [str(error)]


def test_a_whole_book_verifies(book: Path) -> None:
    """Every table has rows, and nothing is wrong with them."""
    assert faults_of(book) == []
    assert all(rows for rows in dump(book))


def edit(path: Path, statement: str, *values: Any) -> None:
    """Change the book behind the ledger's back."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, values)
    connection.close()


CELLS = [(table, column) for table, columns in TABLES.items() for column in ("session", "at", "hash", *columns)]


@pytest.mark.parametrize(("table", "column"), CELLS)
def test_one_changed_cell_names_its_row(book: Path, tmp_path: Path, table: str, column: str) -> None:
    """A changed value in any column of any table is found, and the first fault is that row."""
    path = copied(book, tmp_path)
    connection = sqlite3.connect(path)
    entry, value = connection.execute(f"SELECT entry, {column} FROM {table} ORDER BY entry DESC LIMIT 1").fetchone()
    connection.close()
    changed: Any = value + 1 if isinstance(value, int | float) else (b"x" if isinstance(value, bytes) else "tampered")
    edit(path, f"UPDATE {table} SET {column} = ? WHERE entry = ?", changed, entry)
    assert any(f"{table} row {entry}" in fault for fault in faults_of(path)[:2])


@pytest.mark.parametrize("table", list(TABLES))
def test_a_missing_row_is_found(book: Path, tmp_path: Path, table: str) -> None:
    """A row taken out leaves a gap that is named, the last one a head that does not match."""
    path = copied(book, tmp_path)
    edit(path, f"DELETE FROM {table} WHERE entry = (SELECT max(entry) FROM {table})")
    assert any("missing" in fault or "head" in fault for fault in faults_of(path))


@pytest.mark.parametrize("column", ["entry", "hash", "forwards", "queries", "price_micros"])
def test_a_changed_head_is_found(book: Path, tmp_path: Path, column: str) -> None:
    """The sums that caps are checked against cannot be edited."""
    path = copied(book, tmp_path)
    edit(path, f"UPDATE head SET {column} = ?", 0)
    assert any("head" in fault for fault in faults_of(path))


def test_one_changed_byte_anywhere_is_found_or_changes_nothing(book: Path, tmp_path: Path) -> None:
    """A flipped byte is named, or is refused by the database, or lies where no row has a bit of itself."""
    raw, rows = book.read_bytes(), dump(book)
    path = tmp_path / "ledger.sqlite"
    unfound = 0
    rng = np.random.default_rng(0)
    for place in rng.choice(len(raw), 400, replace=False):
        changed = bytearray(raw)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        for extra in tmp_path.glob("ledger.sqlite-*"):
            extra.unlink()
        if not faults_of(path):
            assert dump(path) == rows
            unfound += 1
    assert unfound < 400


def test_every_byte_of_a_reply_counts(book: Path, tmp_path: Path) -> None:
    """A byte changed in the text of a stored reply names the row that holds it."""
    raw = book.read_bytes()
    place = raw.index(b'"ranking":null')
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(raw[:place] + b'"rankinG":null' + raw[place + 14 :])
    assert any("states row" in fault for fault in faults_of(path))


def test_a_rows_hash_depends_on_all_it_is_given() -> None:
    """Table, place, order, type and content all count; bytes are told from text."""
    base: tuple[str, str, int, dict[str, Any]] = ("0" * 64, "run", 1, {"a": 1})
    others = [("1" * 64, *base[1:]), ("0" * 64, "caps", 1, {"a": 1}), ("0" * 64, "run", 2, {"a": 1})]
    contents: list[Any] = [2, "1", 1.0, None, b"1"]
    hashes = {row_hash(*base), *(row_hash(*other) for other in others)}
    hashes |= {row_hash("0" * 64, "run", 1, {"a": content}) for content in contents}
    assert len(hashes) == 1 + len(others) + len(contents)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: raw[:100], lambda raw: b"\0" * len(raw)]
)
def test_a_torn_file_is_found(book: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """A file cut short or blank is refused."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(damage(book.read_bytes()))
    assert faults_of(path)


def test_the_attempts_table_is_the_attempts_record() -> None:
    """Order and names of the columns are the record's own."""
    assert list(TABLES["attempts"]) == list(Attempt.__dataclass_fields__)
