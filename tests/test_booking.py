"""The life of one charged call in the book."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from blackbox_ti.attempt import Attempt, Effect
from blackbox_ti.booking import Booking
from blackbox_ti.budget import Caps, Cost
from blackbox_ti.endpoint import Guarantees
from blackbox_ti.errors import (
    BlackboxTIError,
    BudgetSpentError,
    ConnectError,
    InputError,
    OverloadedError,
    ProtocolError,
    RejectedError,
    ResumeError,
)
from blackbox_ti.ledger import Ledger, Operation, RunIdentity
from blackbox_ti.wire import Charge, LossReply, Receipt, encode_tensor

COST = Cost(8, 2, 30)
SPENT = Cost(4, 1, 15)
DAY = 86_400.0
REPLY = LossReply(
    candidates=[0],
    losses=encode_tensor(np.ones((1, 4))),
    charge=Charge(forwards=SPENT.forwards, queries=SPENT.queries, price_micros=SPENT.price_micros),
)


class Host:
    """Answers by a script of replies and errors, the last of them for ever, and shows no receipts."""

    def __init__(self, *script: LossReply | BlackboxTIError, guarantees: Guarantees | None = None) -> None:
        self.script = list(script)
        self.guarantees = guarantees or Guarantees()
        self.keys: list[str] = []

    def send(self, key: str) -> LossReply:
        """Take the script's next step."""
        self.keys.append(key)
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, BlackboxTIError):
            raise step
        return step


class OpenHost(Host):
    """A host that shows the receipts it is given."""

    shown: Sequence[Receipt] = ()

    def receipts(self) -> Sequence[Receipt]:
        """Return them all."""
        return self.shown


class Desk:
    """A booking over a host; `waits` are the seconds slept."""

    def __init__(self, ledger: Ledger, host: Host) -> None:
        self.ledger, self.host = ledger, host
        self.waits: list[float] = []
        self.booking = Booking(host, ledger, sleep=self.waits.append, rng=np.random.default_rng(0))

    def ask(self, send: Callable[[str], LossReply] | None = None) -> LossReply:
        """Ask the call `a` of 8 forwards at the most, of the host or by another way to send."""
        return self.booking.ask(LossReply, "a", self._reserve, send or self.host.send)

    def states(self) -> dict[str, str]:
        """Return the state of every operation by its name."""
        return {o.name: o.state for o in self.ledger.operations()}

    def _reserve(self, name: str) -> Operation:
        return self.ledger.reserve(name=name, label="x", route="loss", request={"q": 1}, cost=COST)


@pytest.fixture
def now() -> list[float]:
    """The time in the book, for a test to move."""
    return [1_700_000_000.0]


@pytest.fixture
def ledger(tmp_path: Path, now: list[float]) -> Iterator[Ledger]:
    """A book whose run has begun, with room for three calls."""
    with Ledger(tmp_path / "ledger.sqlite", clock=lambda: now[0]) as opened:
        opened.begin(RunIdentity(endpoint="x", settings={}, pictures=[]), Caps(forwards=3 * COST.forwards))
        yield opened


def _attempt(key: str, effect: Effect) -> Attempt:
    return Attempt(
        number=1, idempotency_key=key, method="POST", path="/", started_at=0.0, latency=0.1, status=None,
        error="connect", effect=effect, bytes_up=1, bytes_down=0, request_id=None, retry_after=None, replayed=False,
    )  # fmt: skip


def _receipt(key: str, spent: Cost = SPENT) -> Receipt:
    return Receipt(
        sequence=1, account="a", idempotency_key=key, request_sha256="0" * 64, route="loss", fingerprint="0" * 64,
        forwards=spent.forwards, queries=spent.queries, price_micros=spent.price_micros, currency="USD",
        issued_at="2026-01-01T00:00:00Z", previous="0" * 64, hash="0" * 64, signature="0" * 128,
    )  # fmt: skip


def test_an_answer_is_sent_for_once_and_settled_at_what_was_charged(ledger: Ledger) -> None:
    """Asked again, it comes from the book, to the last bit."""
    desk = Desk(ledger, Host(REPLY))
    assert desk.ask() == desk.ask() == REPLY
    assert len(desk.host.keys) == 1
    assert ledger.committed() == SPENT


def test_the_hosts_word_for_a_charge_is_kept_with_it(ledger: Ledger) -> None:
    """The receipt in the book is the one that came with the reply, field for field."""
    receipt = _receipt("any")
    signed = REPLY.model_copy(update={"charge": REPLY.charge.model_copy(update={"receipt": receipt})})
    assert Desk(ledger, Host(signed)).ask() == signed
    (operation,) = ledger.operations()
    assert operation.receipt is not None
    assert Receipt.model_validate_json(operation.receipt) == receipt


@pytest.mark.parametrize(
    ("error", "state", "committed"),
    [
        (RejectedError("no"), "refused", Cost()),
        (BudgetSpentError("no"), "refused", Cost()),
        (InputError("no"), "refused", Cost()),
        (ConnectError("no"), "unknown", COST),
        (OverloadedError("no"), "unknown", COST),
        (ProtocolError("no"), "unknown", COST),
    ],
)
def test_without_attempts_in_the_book_the_error_says_whether_it_was_charged(
    ledger: Ledger, error: BlackboxTIError, state: str, committed: Cost
) -> None:
    """A refusal frees what was reserved; anything else keeps it, and the error is the caller's."""
    desk = Desk(ledger, Host(error))
    with pytest.raises(type(error)):
        desk.ask()
    assert desk.states() == {"a": state}
    assert ledger.committed() == committed


@pytest.mark.parametrize(("effects", "state"), [(["none", "none"], "refused"), (["none", "unknown"], "unknown")])
def test_attempts_in_the_book_have_the_last_word(ledger: Ledger, effects: list[Effect], state: str) -> None:
    """What certainly reached no host is free again, whatever the error is called, and only that."""
    desk = Desk(ledger, Host(REPLY))

    def send(key: str) -> LossReply:
        for effect in effects:
            ledger.record_attempt(_attempt(key, effect))
        raise ConnectError("no")

    with pytest.raises(ConnectError):
        desk.ask(send)
    assert desk.states() == {"a": state}


def test_an_unknown_call_is_sent_again_under_its_key(ledger: Ledger) -> None:
    """A host that knows keys may have the reply still."""
    desk = Desk(ledger, Host(OverloadedError("busy"), REPLY))
    with pytest.raises(OverloadedError):
        desk.ask()
    assert desk.ask() == REPLY
    assert len(set(desk.host.keys)) == 1
    assert ledger.committed() == SPENT


def test_a_refusal_of_a_call_sent_before_frees_nothing(ledger: Ledger) -> None:
    """The first time may have been charged."""
    desk = Desk(ledger, Host(OverloadedError("busy"), RejectedError("no")))
    for error in (OverloadedError, RejectedError):
        with pytest.raises(error):
            desk.ask()
    assert desk.states() == {"a": "unknown"}
    assert ledger.committed() == COST


def test_a_host_without_keys_is_asked_anew_within_the_cap(ledger: Ledger) -> None:
    """Each loss counts as spent in full; the next is another operation under another key, until the cap."""
    desk = Desk(ledger, Host(ConnectError("lost"), guarantees=Guarantees(idempotency=False)))
    with pytest.raises(BudgetSpentError):
        desk.ask()
    assert desk.states() == dict.fromkeys(["a", "a~", "a~~"], "settled")
    assert len(set(desk.host.keys)) == len(desk.host.keys) == 3
    assert ledger.committed().forwards == 3 * COST.forwards
    assert len(desk.waits) == 3


def test_a_host_without_keys_that_answers_later_is_paid_for_each_time(ledger: Ledger) -> None:
    """The reply is under the last name, and is not asked for again."""
    desk = Desk(ledger, Host(ConnectError("lost"), REPLY, guarantees=Guarantees(idempotency=False)))
    assert desk.ask() == desk.ask() == REPLY
    assert len(desk.host.keys) == 2
    assert ledger.committed() == COST + SPENT


@pytest.mark.parametrize(("charged", "names"), [(True, ["a", "a~"]), (False, ["a"])])
def test_after_a_day_the_receipts_decide(ledger: Ledger, now: list[float], *, charged: bool, names: list[str]) -> None:
    """With a receipt the charge stays and the call is paid again; without, it was never charged."""
    host = OpenHost(OverloadedError("busy"), REPLY)
    desk = Desk(ledger, host)
    with pytest.raises(OverloadedError):
        desk.ask()
    if charged:
        host.shown = [_receipt("another", COST), _receipt(host.keys[0])]
    now[0] += DAY + 1
    assert desk.ask() == REPLY
    assert desk.states() == dict.fromkeys(names, "settled")
    assert len(set(host.keys)) == 2
    assert ledger.committed() == (SPENT + SPENT if charged else SPENT)


def test_up_to_a_day_the_key_still_counts(ledger: Ledger, now: list[float]) -> None:
    """The host keeps its replies for that long."""
    desk = Desk(ledger, Host(OverloadedError("busy"), REPLY))
    with pytest.raises(OverloadedError):
        desk.ask()
    now[0] += DAY - 1
    desk.ask()
    assert len(set(desk.host.keys)) == 1


def test_after_a_day_without_receipts_nothing_is_sent(ledger: Ledger, now: list[float]) -> None:
    """Nobody can tell whether it was charged."""
    desk = Desk(ledger, Host(OverloadedError("busy"), REPLY))
    with pytest.raises(OverloadedError):
        desk.ask()
    now[0] += DAY + 1
    with pytest.raises(ResumeError, match="over a day ago"):
        desk.ask()
    assert len(desk.host.keys) == 1


def test_an_interruption_leaves_the_call_as_it_was(ledger: Ledger) -> None:
    """What is no error of ours is not booked: the reservation stays, to be sent again under its key."""
    desk = Desk(ledger, Host(REPLY))

    def crash(key: str) -> LossReply:
        desk.host.send(key)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        desk.ask(crash)
    assert desk.states() == {"a": "reserved"}
    assert desk.ask() == REPLY
    assert len(set(desk.host.keys)) == 1
