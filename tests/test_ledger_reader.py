"""What a book tells: the records that were written, whoever wrote them, and nothing that was not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_ti.budget import Caps, Cost
from blackbox_ti.endpoint import Guarantees
from blackbox_ti.errors import BudgetSpentError
from blackbox_ti.ledger_reader import LedgerReader
from blackbox_ti.ledger_store import Store
from tests.fake_host import FakeHost
from tests.ledgers import IDENTITY, UNIT, attempt, opened, reserve


def reader(folder: Path, clock: Callable[[], float] = lambda: 0.0) -> LedgerReader:
    """Return the book in `folder` as one who only reads has it, the file opened by itself."""
    return LedgerReader(Store(folder / "ledger.sqlite", create=True, clock=clock), clock=clock)


def test_an_empty_book_tells_nothing(tmp_path: Path) -> None:
    """No run, no card, no calls, no caps, and every guarantee there can be."""
    with reader(tmp_path) as book:
        assert (book.endpoint(), book.model_card(), book.recorded_guarantees(), book.find("a")) == (None,) * 4
        assert (book.operations(), book.attempts(), book.keys(), book.effects_of("k"), book.faults()) == (
            [], [], {}, [], [],
        )  # fmt: skip
        assert (book.caps(), book.committed(), book.guarantees()) == (Caps(), Cost(), Guarantees())
        assert book.wall_seconds() == 0


def test_what_another_writes_is_read_at_once(tmp_path: Path) -> None:
    """A reader beside a running search sees its calls as they come, a reply only where it asks for one call."""
    with opened(tmp_path, Caps(forwards=9)) as ledger, reader(tmp_path) as book:
        assert (book.path, book.endpoint(), book.caps()) == (ledger.path, IDENTITY.endpoint, Caps(forwards=9))
        for name in ("b", "a"):
            operation = reserve(ledger, name)
        ledger.settle(operation, charged=UNIT, reply=b"r", receipt="{}")
        assert [(o.name, o.state, o.answered, o.reply) for o in book.operations()] == [
            ("b", "reserved", False, None), ("a", "settled", True, None),
        ]  # fmt: skip
        found = book.find("a")
        assert found is not None
        assert (found.reply, found.receipt, found.cost) == (b"r", "{}", UNIT)
        assert book.committed() == Cost(2, 2, 2)


def test_reading_writes_nothing(tmp_path: Path) -> None:
    """However much is asked, the book's head stays where it was: not even a session is noted."""
    with opened(tmp_path) as ledger:
        reserve(ledger, "a")
    store = Store(tmp_path / "ledger.sqlite", create=False, clock=lambda: 0.0)
    before = store.one("SELECT entry, hash FROM head")
    with LedgerReader(store) as book:
        book.operations(), book.attempts(), book.keys(), book.caps(), book.guarantees(), book.wall_seconds()
        assert store.one("SELECT entry, hash FROM head") == before


def test_attempts_are_kept_as_they_were(tmp_path: Path) -> None:
    """An attempt comes back from the book equal, and its effect under its key."""
    with opened(tmp_path) as ledger:
        told = [attempt("k", "unknown"), attempt("k"), attempt(None)]
        for one in told:
            ledger.record_attempt(one)
        assert [a for _, a in ledger.attempts()] == told
        assert ledger.effects_of("k") == ["unknown", "done"]


def test_every_key_leads_to_its_call(tmp_path: Path) -> None:
    """A call that was refused has one key more, and both are its own."""
    with opened(tmp_path) as ledger:
        first, other = reserve(ledger, "a"), reserve(ledger, "b")
        ledger.refuse(first, "refused")
        again = reserve(ledger, "a")
        assert ledger.keys() == {
            first.idempotency_key: "a", again.idempotency_key: "a", other.idempotency_key: "b",
        }  # fmt: skip


def test_a_calls_age_is_that_of_its_key_and_of_its_last_change(tmp_path: Path) -> None:
    """A call whose outcome got lost was sent long ago, and changed when that was noticed."""
    now = [100.0]
    with opened(tmp_path, clock=lambda: now[0]) as ledger:
        operation = reserve(ledger, "a")
        now[0] += 10
        ledger.leave_unknown(operation, "lost")
        now[0] += 5
        found = ledger.find("a")
        assert found is not None
        assert (ledger.seconds_since_first_sent(found), ledger.idle_seconds(found)) == (15, 5)
        now[0] = 0.0
        assert (ledger.seconds_since_first_sent(found), ledger.idle_seconds(found)) == (0, 0)


def test_the_last_card_and_guarantees_are_told(tmp_path: Path) -> None:
    """A host may change its limits and what it promises; its latest word counts."""
    card = FakeHost().card
    newer = card.model_copy(update={"resolution": card.resolution + 8})
    with opened(tmp_path) as ledger:
        for one in (card, newer):
            ledger.record_model(card.fingerprint, one.model_dump_json())
        for held in (Guarantees(idempotency=False), Guarantees(receipts=False)):
            ledger.record_guarantees(held)
        assert ledger.model_card() == newer
        assert ledger.guarantees() == ledger.recorded_guarantees() == Guarantees(receipts=False)


LIMIT = st.none() | st.integers(1, 2**62)


@settings(max_examples=25, deadline=None)
@given(st.builds(Caps, forwards=LIMIT, queries=LIMIT, price_micros=LIMIT, wall_seconds=st.none() | st.floats(0.5, 1e9)))
def test_caps_come_back_as_they_were_put_in_force(tmp_path_factory: pytest.TempPathFactory, caps: Caps) -> None:
    """Each in its own place, none for what has none."""
    with opened(tmp_path_factory.mktemp("book"), caps) as ledger:
        assert astuple(ledger.caps()) == astuple(caps)


def test_wall_time_adds_up_over_sessions(tmp_path: Path) -> None:
    """The time between sessions does not count, the time of each does."""
    now = [1000.0]
    with opened(tmp_path, clock=lambda: now[0]) as ledger:
        now[0] += 30.0
        reserve(ledger, "a")
    now[0] += 10_000.0
    with opened(tmp_path, Caps(wall_seconds=50.0), clock=lambda: now[0]) as ledger:
        assert ledger.wall_seconds() == 30.0
        now[0] += 15.0
        reserve(ledger, "b")
        now[0] += 10.0
        with pytest.raises(BudgetSpentError, match="wall"):
            reserve(ledger, "c")
