"""Tests of transactions on the books."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from server_stub.database import Books, BooksUnavailableError, accounts, locked_account


def names(books: Books) -> list[str]:
    """Return the accounts."""
    with books.read() as connection:
        return list(connection.execute(sa.select(accounts.c.name)).scalars())


def add(books: Books, name: str, *, fail: bool = False) -> None:
    """Add an account in one transaction."""
    with books.write() as connection:
        connection.execute(sa.insert(accounts).values(name=name, created_at=0.0))
        if fail:
            raise ZeroDivisionError


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    """An error inside `write` undoes it whole; the next one works."""
    books = Books(f"sqlite:///{tmp_path / 'b.sqlite'}")
    with pytest.raises(ZeroDivisionError):
        add(books, "ada", fail=True)
    add(books, "bob")
    assert names(books) == ["bob"]
    books.close()


def test_only_what_is_to_last_waits_for_the_disk(tmp_path: Path) -> None:
    """Each transaction says for itself, whatever the one before on the same connection said."""
    books = Books(f"sqlite:///{tmp_path / 'b.sqlite'}")
    for durable, level in ((True, 2), (False, 1), (True, 2)):
        with books.write(durable=durable) as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == level
    books.close()


def test_writers_are_one_after_the_other(tmp_path: Path) -> None:
    """Read, then write, in many threads and two connections to the file, loses no update."""
    both = [Books(f"sqlite:///{tmp_path / 'b.sqlite'}") for _ in range(2)]
    add(both[0], "ada")

    def raise_by_one(books: Books) -> None:
        for _ in range(10):
            with books.write() as connection:
                row = locked_account(connection, 1)
                connection.execute(sa.update(accounts).values(sequence=row.sequence + 1))

    workers = [threading.Thread(target=raise_by_one, args=(books,)) for books in both * 3]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with both[0].read() as connection:
        assert locked_account(connection, 1).sequence == 60
    for books in both:
        books.close()


def test_a_reader_sees_one_state_while_others_write(tmp_path: Path) -> None:
    """Within one `read` nothing changes, and a writer does not wait for it (WAL)."""
    books = Books(f"sqlite:///{tmp_path / 'b.sqlite'}")
    add(books, "ada")
    count = sa.select(sa.func.count()).select_from(accounts)
    with books.read() as connection:
        before = connection.execute(count).scalar()
        add(books, "bob")
        assert connection.execute(count).scalar() == before == 1
    assert names(books) == ["ada", "bob"]
    books.close()


@pytest.mark.parametrize("content", [b"this is no database, and never was one" * 100, None])
def test_what_cannot_be_opened_is_one_error(tmp_path: Path, content: bytes | None) -> None:
    """A file that is no database, and a folder that is not there, raise the typed error."""
    path = tmp_path / ("b.sqlite" if content else "missing/b.sqlite")
    if content:
        path.write_bytes(content)
    with pytest.raises(BooksUnavailableError):
        Books(f"sqlite:///{path}")


def test_statements_never_carry_values_into_errors(tmp_path: Path) -> None:
    """An error's text, which may end in a log, does not hold what was to be written."""
    books = Books(f"sqlite:///{tmp_path / 'b.sqlite'}")
    add(books, "secret")
    with pytest.raises(sa.exc.IntegrityError) as caught:
        add(books, "secret")
    assert "secret" not in str(caught.value)
    books.close()
