"""What a host does not guarantee, and what holds there all the same: the cap on what is sent."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_ti.audit import audit
from blackbox_ti.audit_report import AuditReport
from blackbox_ti.booked import BookedEndpoint
from blackbox_ti.budget import Caps
from blackbox_ti.endpoint import Guarantees
from blackbox_ti.errors import BlackboxTIError, BudgetSpentError, ConnectError
from blackbox_ti.ledger import Ledger, RunIdentity
from blackbox_ti.retry import RetryPolicy
from blackbox_ti.shortfalls import shortfalls
from blackbox_ti.wire import LossReply
from tests.fake_host import loss_request, png
from tests.hf_host import HfHost, hf_endpoint

FORWARDS = 2 * 4
IDENTITY = RunIdentity(endpoint="http://127.0.0.1:9", settings={}, pictures=[])


class Run:
    """A run in a folder on a hosted endpoint."""

    def __init__(self, folder: Path, host: HfHost, *, cap: int | None = None) -> None:
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.ledger.begin(IDENTITY, Caps(forwards=cap))
        patience = RetryPolicy(deadline=60.0)
        inner = hf_endpoint(host, on_attempt=self.ledger.record_attempt, policy=patience)
        self.endpoint = BookedEndpoint(inner, self.ledger, sleep=lambda _: None, rng=np.random.default_rng(0))
        self.endpoint.describe()
        self.concept = self.endpoint.register_concept([png()])

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.close()

    def ask(self, n: int) -> LossReply:
        """Make call number `n`: 8 forwards."""
        embeddings = np.random.default_rng(n).normal(size=(2, 1, 8)).astype(np.float32)
        return self.endpoint.losses(loss_request(self.concept, embeddings, samples=4, seed=n), label=f"search/{n}")

    def audit(self) -> AuditReport:
        """Audit the ledger alone: the host has no book."""
        return audit(self.ledger)


def test_a_reply_lost_after_the_work_is_asked_anew_and_both_count(tmp_path: Path) -> None:
    """The host worked twice, the book says so, and the audit says what was lost and why it cannot know more."""
    host = HfHost()
    host.script = ["dropped", None]
    with Run(tmp_path, host) as run:
        reply = run.ask(1)
        assert reply.losses is not None
        assert host.worked == run.ledger.committed().forwards == 2 * FORWARDS
        report = run.audit()
    assert report.ok, report.to_text()
    assert report.lost == ["search/1#1 (8 forwards, settled)"]
    assert report.unanswered.forwards == FORWARDS
    assert len(report.not_guaranteed) == 3
    assert "not guaranteed by this host: a lost reply" in report.to_text()
    assert "lost, counts as spent: search/1#1" in report.to_text()


def test_a_host_that_always_drops_is_given_up_and_every_try_counts(tmp_path: Path) -> None:
    """Four times the work, four reservations, then the error."""
    host = HfHost()
    host.script = ["dropped"] * 100
    with Run(tmp_path, host) as run:
        with pytest.raises(ConnectError):
            run.ask(1)
        assert host.worked == run.ledger.committed().forwards == 4 * FORWARDS


def test_the_cap_is_never_exceeded_by_what_is_lost(tmp_path: Path) -> None:
    """With room for three calls, the third loss is the last thing sent, also when the run goes on later."""
    host = HfHost()
    host.script = ["dropped"] * 100
    for _ in range(2):
        with Run(tmp_path, host, cap=3 * FORWARDS + 7) as run, pytest.raises(BudgetSpentError):
            run.ask(1)
        assert host.worked == 3 * FORWARDS


def test_what_certainly_was_not_done_is_not_counted(tmp_path: Path) -> None:
    """Starting replicas answer 503 before the work: waited for, charged once."""
    host = HfHost()
    host.script = [503, 503, None]
    with Run(tmp_path, host, cap=FORWARDS) as run:
        run.ask(1)
        assert run.ledger.committed().forwards == FORWARDS == host.worked
        assert run.audit().lost == []


def test_a_run_that_goes_on_repeats_no_answered_call(tmp_path: Path) -> None:
    """What was answered comes from the book, what was lost stays lost, and the answer is the same."""
    host = HfHost()
    host.script = [None, "dropped", "dropped", None]
    with Run(tmp_path, host) as run:
        first = [run.ask(1), run.ask(2)]
    worked = host.worked
    host.restart()
    with Run(tmp_path, host) as run:
        again = [run.ask(1), run.ask(2)]
        assert run.ledger.committed().forwards == worked == 4 * FORWARDS
    assert host.worked == worked
    assert [r.losses for r in first] == [r.losses for r in again]


def test_a_run_killed_with_a_call_on_its_way_counts_it_as_spent(tmp_path: Path) -> None:
    """Nobody can tell whether it was done; it is asked anew, and the audit lists it."""
    host = HfHost()
    with Run(tmp_path, host) as run:
        embeddings = np.random.default_rng(1).normal(size=(2, 1, 8)).astype(np.float32)
        request = loss_request(run.concept, embeddings, samples=4, seed=1).model_dump(mode="json")
        cost = run.ledger.committed().__class__(FORWARDS, 2, 0)
        run.ledger.reserve(name="search/1#1", label="search/1", route="loss", request=request, cost=cost)
        assert run.audit().lost == ["search/1#1 (8 forwards, reserved)"]
        assert run.audit().ok
    with Run(tmp_path, host) as run:
        run.ask(1)
        assert run.ledger.committed().forwards == 2 * FORWARDS
        assert host.worked == FORWARDS


fates = st.lists(st.sampled_from([None, "dropped", 503, 500, 502, "400 after", 429]), max_size=25)


@settings(max_examples=40)
@given(script=fates, room=st.integers(0, 6), calls=st.integers(1, 6))
def test_whatever_the_host_does_the_cap_on_the_work_holds(
    script: list[str | int | None], room: int, calls: int
) -> None:
    """The work a host did is at most what the book says is spent, and that is at most the cap."""
    host = HfHost()
    cap = room * FORWARDS + 3
    with TemporaryDirectory() as folder, Run(Path(folder), host, cap=cap) as run:
        host.script = list(script)
        for n in range(calls):
            try:
                run.ask(n)
            except BlackboxTIError:
                continue
        assert host.worked <= run.ledger.committed().forwards <= cap
        assert run.audit().ok


def test_a_host_that_guarantees_everything_falls_short_of_nothing() -> None:
    """One sentence for each guarantee that is not given."""
    assert shortfalls(Guarantees()) == []
    nothing = Guarantees(idempotency=False, exact_cost=False, receipts=False)
    assert len(set(shortfalls(nothing))) == 3
    assert "receipts" in shortfalls(Guarantees(receipts=False))[0]


def test_guarantees_are_recorded_once_a_change(tmp_path: Path) -> None:
    """The book knows them after the run has ended, and a book without them is one of a host that gives them all."""
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.guarantees() == Guarantees()
    host = HfHost()
    for _ in range(2):
        with Run(tmp_path, host) as run:
            assert run.ledger.guarantees() == Guarantees(idempotency=False, exact_cost=False, receipts=False)
            assert run.ledger.faults() == []
