"""Tests of who is alive on the books."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server_stub.database import Books
from server_stub.presence import Presence
from tests.server_stub.books import Clock


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    """Yield fresh books."""
    made = Books(f"sqlite:///{tmp_path / 'books.sqlite'}")
    yield made
    made.close()


def test_a_process_that_let_go_of_its_lock_is_dead_at_once(books: Books, tmp_path: Path) -> None:
    """In one state folder death shows without waiting for the lease, and the buried are forgotten."""
    clock = Clock()
    first = Presence(books, tmp_path / "servers", clock=clock)
    second = Presence(books, tmp_path / "servers", clock=clock)
    assert second.beat() == []
    first.close()
    assert second.beat() == [first.id]
    second.bury([first.id])
    assert second.beat() == []
    assert len(list((tmp_path / "servers").iterdir())) == 1
    second.close()


def test_a_live_process_is_not_dead_however_late_it_is(books: Books, tmp_path: Path) -> None:
    """In one state folder a process that holds its lock lives, though its lease ran out."""
    clock = Clock()
    first = Presence(books, tmp_path / "servers", lease=10, clock=clock)
    second = Presence(books, tmp_path / "servers", lease=10, clock=clock)
    clock.now += 1000
    assert second.beat() == []
    first.close()
    second.close()


def test_a_process_of_another_machine_is_dead_when_its_lease_ran_out(books: Books, tmp_path: Path) -> None:
    """Across state folders only the renewed time tells."""
    clock = Clock()
    first = Presence(books, tmp_path / "here", lease=10, clock=clock)
    second = Presence(books, tmp_path / "there", lease=10, clock=clock)
    clock.now += 10
    assert second.beat() == []
    clock.now += 0.5
    assert second.beat() == [first.id]
    assert first.beat() == []
    assert second.beat() == []
    first.close()
    second.close()
