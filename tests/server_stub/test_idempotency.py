"""Tests of charged operations: once, never over the budget, whatever the order of events."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from server_stub import receipts as chain
from server_stub import spending
from server_stub.database import BooksUnavailableError
from server_stub.database import spending as spending_table
from server_stub.idempotency import Conflict, ConflictError, Replay, Reservation, ReservationLostError, day_of
from server_stub.receipts import verify
from server_stub.spending import Amount, Budget, BudgetSpentError, Period
from tests.server_stub.books import Clock, OneServer, order, reply


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still."""
    return Clock()


@pytest.fixture
def server(tmp_path: Path, clock: Clock) -> Iterator[OneServer]:
    """Yield a server on fresh books."""
    made = OneServer(tmp_path, clock)
    yield made
    made.die()


def begun(server: OneServer, account: int, key: str, amount: Amount) -> Reservation:
    """Begin an operation that is new."""
    found = server.operations.begin(order(account, key), amount)
    assert isinstance(found, Reservation)
    return found


def test_a_done_operation_replays_its_reply(server: OneServer) -> None:
    """After settling, the same key and body return the stored bytes, by both ways of asking."""
    account = server.accounts.ensure("ada")
    held = begun(server, account, "k", Amount(6, 3, 0))
    server.operations.settle(held, Amount(6, 3, 0), reply)
    done = held.order
    assert server.operations.begin(done, Amount(6, 3, 0)) == Replay(b"reply 1")
    assert server.operations.find(account, "k", done.route, done.request_sha256) == Replay(b"reply 1")
    assert spending.spent(server.books, account) == Amount(6, 3, 0)


def test_a_key_belongs_to_its_account(server: OneServer) -> None:
    """Another account's key of the same text is another operation: nobody sees another's reply."""
    first, second = server.accounts.ensure("ada"), server.accounts.ensure("bob")
    server.operations.settle(begun(server, first, "k", Amount(1)), Amount(1), reply)
    assert server.operations.find(second, "k", "/v1/loss", order(second, "k").request_sha256) is None
    assert isinstance(server.operations.begin(order(second, "k"), Amount(1)), Reservation)


def test_a_key_in_use_is_a_conflict(server: OneServer) -> None:
    """While held the key is in flight; with another body or route it is reused."""
    account = server.accounts.ensure("ada")
    begun(server, account, "k", Amount(1))
    for asked, conflict in (
        (order(account, "k"), Conflict.IN_FLIGHT),
        (order(account, "k", body=b"other"), Conflict.REUSED),
        (order(account, "k", route="/v1/images"), Conflict.REUSED),
    ):
        with pytest.raises(ConflictError) as caught:
            server.operations.begin(asked, Amount(1))
        assert caught.value.conflict is conflict


def test_less_than_held_may_be_charged_and_the_rest_is_free_again(server: OneServer) -> None:
    """What was held and not charged can be spent by the next operation."""
    account = server.accounts.ensure("ada")
    spending.set_budget(server.books, account, Period.TOTAL, Budget(max_forwards=10))
    server.operations.settle(begun(server, account, "a", Amount(10)), Amount(4), reply)
    with pytest.raises(BudgetSpentError):
        server.operations.begin(order(account, "b"), Amount(7))
    server.operations.settle(begun(server, account, "b", Amount(6)), Amount(6), reply)
    assert spending.spent(server.books, account).forwards == 10


def test_a_reservation_is_charged_to_the_day_it_was_made(server: OneServer, clock: Clock) -> None:
    """A computation that goes on over midnight of a month's last day counts in the day and month it began in."""
    account = server.accounts.ensure("ada")
    for period in (Period.DAY, Period.MONTH):
        spending.set_budget(server.books, account, period, Budget(max_forwards=10))
    held = begun(server, account, "a", Amount(10))
    clock.now += 86_400
    server.operations.settle(held, Amount(10), reply)
    server.operations.settle(begun(server, account, "b", Amount(10)), Amount(10), reply)
    with pytest.raises(BudgetSpentError):
        server.operations.begin(order(account, "c"), Amount(1))


def test_a_failing_reply_releases_the_reservation(server: OneServer) -> None:
    """Where the reply cannot be made nothing is charged, no receipt stays, and the key is free."""
    account = server.accounts.ensure("ada")

    def broken(_: object) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        server.operations.settle(begun(server, account, "k", Amount(5)), Amount(5), broken)
    assert chain.head(server.books, account) == (0, "0" * 64)
    assert isinstance(server.operations.begin(order(account, "k"), Amount(5)), Reservation)


def test_old_replies_are_dropped_after_their_time_and_not_before(server: OneServer, clock: Clock) -> None:
    """A stored reply lasts as long as promised, and is gone at the next tidying after that."""
    account = server.accounts.ensure("ada")
    server.operations.settle(begun(server, account, "k", Amount(1)), Amount(1), reply)
    asked = order(account, "k")
    clock.now += 86_400
    server.operations.tidy(retention=86_400)
    assert server.operations.find(account, "k", asked.route, asked.request_sha256) == Replay(b"reply 1")
    clock.now += 1
    server.operations.tidy(retention=86_400)
    assert server.operations.find(account, "k", asked.route, asked.request_sha256) is None


def test_a_process_taken_for_dead_charges_nothing(tmp_path: Path, clock: Clock) -> None:
    """A server that lost its reservation to another's tidying cannot settle it, and the other charges once."""
    first, second = OneServer(tmp_path, clock), OneServer(tmp_path, clock)
    account = first.accounts.ensure("ada")
    held = begun(first, account, "k", Amount(5))
    first.presence.close()
    assert second.operations.tidy(retention=86_400) == 1
    again = begun(second, account, "k", Amount(5))
    with pytest.raises(ReservationLostError):
        first.operations.settle(held, Amount(5), reply)
    first.operations.release(held)
    second.operations.settle(again, Amount(5), reply)
    assert spending.spent(second.books, account) == Amount(5)
    first.books.close()
    second.die()


def test_without_the_database_nothing_is_promised(server: OneServer, tmp_path: Path) -> None:
    """When the books are unusable every step says so; a release is made up for when they are back."""
    account = server.accounts.ensure("ada")
    held = begun(server, account, "k", Amount(5))
    with server.books.write() as connection:
        connection.execute(sa.text("ALTER TABLE operations RENAME TO away"))
    with pytest.raises(BooksUnavailableError):
        server.operations.begin(order(account, "other"), Amount(1))
    with pytest.raises(BooksUnavailableError):
        server.operations.settle(held, Amount(5), reply)
    with server.books.write() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO operations"))
    server.operations.tidy(retention=86_400)
    assert isinstance(server.operations.begin(order(account, "k"), Amount(5)), Reservation)


@dataclass(frozen=True)
class Running:
    """A reservation and the server that holds it."""

    server: OneServer
    reservation: Reservation


CAPS = {Period.TOTAL: 60, Period.DAY: 25, Period.MONTH: 50}


class BooksMachine(RuleBasedStateMachine):
    """Two servers on the same books: they begin, settle, release, die and are replaced while days pass."""

    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.started: list[OneServer] = []
        self.servers = [self.start(), self.start()]
        self.lost: set[str] = set()
        self.held: dict[str, Running] = {}
        self.done: dict[str, int] = {}

    def start(self) -> OneServer:
        """Return a new server process."""
        self.started.append(OneServer(Path(self.folder.name), self.clock))
        return self.started[-1]

    @initialize()
    def open_account(self) -> None:
        """Give the account its caps."""
        self.account = self.servers[0].accounts.ensure("ada")
        for period, cap in CAPS.items():
            spending.set_budget(self.servers[0].books, self.account, period, Budget(max_forwards=cap))

    @rule(target=running, which=st.integers(0, 1), key=st.sampled_from("abcdefgh"), forwards=st.integers(0, 15))
    def begin(self, which: int, key: str, forwards: int) -> object:
        """Begin an operation: a replay, a conflict, a refusal, or a reservation, as the model says."""
        server = self.servers[which]
        try:
            found = server.operations.begin(order(self.account, key), Amount(forwards))
        except ConflictError:
            assert key in self.held
            return multiple()
        except BudgetSpentError as error:
            self.refusal_was_due(error.period, forwards)
            return multiple()
        if isinstance(found, Replay):
            assert key in self.done
            return multiple()
        assert key not in self.held
        assert key not in self.done
        self.held[key] = Running(server, found)
        return self.held[key]

    def refusal_was_due(self, period: Period, forwards: int) -> None:
        """Check that the period's cap did not allow so many forwards more."""
        assert self.taken(period) + forwards > CAPS[period]

    def taken(self, period: Period) -> int:
        """Return charged and held forwards of today's span, as the books count them."""
        day = day_of(self.clock())
        span = {Period.TOTAL: "total", Period.DAY: day, Period.MONTH: day[:7]}[period]
        return sum(self.counters().get(span, (0, 0)))

    def counters(self) -> dict[str, tuple[int, int]]:
        """Return charged and held forwards by span."""
        with self.servers[0].books.read() as connection:
            rows = connection.execute(sa.select(spending_table)).all()
        return {row.span: (row.forwards, row.held_forwards) for row in rows}

    @rule(job=consumes(running), part=st.floats(0, 1))
    def settle(self, job: Running, part: float) -> None:
        """Charge a part of what is held, unless the reservation was lost."""
        amount = Amount(int(job.reservation.amount.forwards * part))
        key = job.reservation.order.key
        if job.reservation.token in self.lost:
            with pytest.raises(ReservationLostError):
                job.server.operations.settle(job.reservation, amount, reply)
            return
        job.server.operations.settle(job.reservation, amount, reply)
        del self.held[key]
        self.done[key] = amount.forwards

    @rule(job=consumes(running))
    def release(self, job: Running) -> None:
        """Give a reservation back; a lost one stays lost."""
        job.server.operations.release(job.reservation)
        if job.reservation.token not in self.lost:
            del self.held[job.reservation.order.key]

    @rule(which=st.integers(0, 1))
    def die(self, which: int) -> None:
        """Kill a server; the one that replaces it releases what it held."""
        dead = self.servers[which]
        dead.presence.close()
        gone = {key: job for key, job in self.held.items() if job.server is dead}
        self.servers[which] = self.start()
        assert self.servers[which].operations.tidy(retention=10**9) == len(gone)
        self.lost |= {self.held.pop(key).reservation.token for key in gone}

    @rule(hours=st.integers(1, 30))
    def wait(self, hours: int) -> None:
        """Let time pass."""
        self.clock.now += hours * 3600

    @rule(which=st.integers(0, 1))
    def tidy(self, which: int) -> None:
        """Tidy while both servers live: nothing is taken from either."""
        assert self.servers[which].operations.tidy(retention=10**9) == 0

    @invariant()
    def no_cap_is_passed(self) -> None:
        """In every span, charged plus held is within the cap."""
        if not hasattr(self, "account"):
            return
        for span, (charged, held) in self.counters().items():
            cap = CAPS[{5: Period.TOTAL, 7: Period.MONTH, 10: Period.DAY}[len(span)]]
            assert min(charged, held) >= 0
            assert charged + held <= cap

    @invariant()
    def the_books_agree_with_the_model(self) -> None:
        """Charges are those of the operations done, reservations those in flight, and the chain holds one each."""
        if not hasattr(self, "account"):
            return
        charged, held = self.counters().get("total", (0, 0))
        assert charged == sum(self.done.values())
        assert held == sum(job.reservation.amount.forwards for job in self.held.values())
        signed = chain.page(self.servers[0].books, self.account, after=0, limit=1000).receipts
        assert [receipt.idempotency_key for receipt in signed] == list(self.done)
        assert [receipt.previous for receipt in signed] == ["0" * 64, *(r.hash for r in signed)][: len(signed)]
        assert all(verify(receipt, self.servers[0].signer.public_key) for receipt in signed)

    def teardown(self) -> None:
        """Close everything."""
        for server in self.servers:
            server.presence.close()
        for server in self.started:
            server.books.close()
        self.folder.cleanup()


TestBooks = BooksMachine.TestCase
TestBooks.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
