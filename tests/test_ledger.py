"""The book: reservations, their outcomes, and caps that hold whatever happens."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from blackbox_ti.budget import Caps, Cost
from blackbox_ti.errors import BudgetSpentError, LedgerError, ResumeError
from blackbox_ti.ledger import Ledger, Operation, RunIdentity
from tests.ledgers import IDENTITY, UNIT, opened, reserve


def test_a_book_outlives_its_process(tmp_path: Path) -> None:
    """What is settled is there after closing and opening, reply and all."""
    with opened(tmp_path) as ledger:
        ledger.settle(reserve(ledger, "a", x=1), charged=UNIT, reply=b"reply", receipt="{}")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.begin(IDENTITY, Caps())
        found = reserve(ledger, "a", x=1)
        assert (found.state, found.reply, found.receipt, found.fresh) == ("settled", b"reply", "{}", False)
        assert ledger.committed() == UNIT
        assert ledger.faults() == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"endpoint": "https://other.example"}, "endpoint was https://host.example"),
        ({"settings": {"seed": 2, "dims": [2, 3]}}, "seed was 1, is 2"),
        ({"settings": {"seed": 1}}, "dims was"),
        ({"pictures": ["aa"]}, "pictures differ"),
    ],
)
def test_another_runs_book_is_refused_with_the_reason(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    """A changed endpoint, setting or picture is named."""
    opened(tmp_path).close()
    with Ledger(tmp_path / "ledger.sqlite") as ledger, pytest.raises(ResumeError, match=reason):
        ledger.begin(RunIdentity(**{**vars(IDENTITY), **change}), Caps())


def test_another_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    """A model with another fingerprint cannot go on with the run; the same may change its card."""
    with opened(tmp_path) as ledger:
        ledger.record_model("f" * 64, "{}")
        ledger.record_model("f" * 64, '{"limits": 1}')
        with pytest.raises(ResumeError, match="another model"):
            ledger.record_model("e" * 64, "{}")


def test_other_pictures_and_another_id_are_refused(tmp_path: Path) -> None:
    """The run's pictures keep their id at the host."""
    with opened(tmp_path) as ledger:
        ledger.record_concept("c1", ["aa", "bb"])
        ledger.record_concept("c1", ["aa", "bb"])
        with pytest.raises(ResumeError, match="another id"):
            ledger.record_concept("c2", ["aa", "bb"])
        with pytest.raises(ResumeError, match="pictures"):
            ledger.record_concept("c1", ["aa"])


def test_a_call_that_differs_is_refused_and_says_where(tmp_path: Path) -> None:
    """The same name with other bytes names the parts that differ."""
    with opened(tmp_path) as ledger:
        reserve(ledger, "a", embeddings=[1], samples=[2])
        with pytest.raises(ResumeError, match=r"a asks something else .*\(samples differ\)"):
            reserve(ledger, "a", embeddings=[1], samples=[3])


def test_a_refused_call_frees_its_cost_and_draws_another_key(tmp_path: Path) -> None:
    """What was certainly not charged can be asked again, as a new operation at the host."""
    with opened(tmp_path, Caps(forwards=1)) as ledger:
        first = reserve(ledger, "a")
        with pytest.raises(BudgetSpentError):
            reserve(ledger, "b")
        ledger.refuse(first, "refused")
        assert ledger.committed() == Cost()
        second = reserve(ledger, "a")
        assert second.fresh
        assert second.idempotency_key != first.idempotency_key
        assert ledger.committed() == UNIT


def test_an_unknown_call_keeps_its_cost_and_its_key(tmp_path: Path) -> None:
    """What may have been charged stays reserved and is asked again under the same key."""
    with opened(tmp_path) as ledger:
        first = reserve(ledger, "a")
        ledger.leave_unknown(first, "timeout")
        again = reserve(ledger, "a")
        assert (again.fresh, again.idempotency_key) == (False, first.idempotency_key)
        assert ledger.committed() == UNIT


def test_a_call_taken_over_cannot_be_freed_by_its_first_holder(tmp_path: Path) -> None:
    """A slow first holder does not free what another is now sending."""
    with opened(tmp_path) as ledger:
        first = reserve(ledger, "a")
        reserve(ledger, "a")
        ledger.refuse(first, "late")
        assert ledger.committed() == UNIT


def test_a_call_is_settled_once(tmp_path: Path) -> None:
    """The first reply stands, whoever comes later; a reply is added where only the charge was known."""
    with opened(tmp_path) as ledger:
        operation = reserve(ledger, "a", cost=Cost(4, 4, 4))
        ledger.settle(operation, charged=Cost(3, 3, 3), reply=None, receipt="{}")
        ledger.settle(operation, charged=Cost(3, 3, 3), reply=b"one", receipt="{}")
        ledger.settle(operation, charged=Cost(2, 2, 2), reply=b"two", receipt="{}")
        found = ledger.find("a")
        assert found is not None
        assert found.reply == b"one"
        assert ledger.committed() == Cost(3, 3, 3)
        assert ledger.faults() == []


def test_keys_differ_between_runs(tmp_path: Path) -> None:
    """Two runs of one account never use the same key for the same name."""
    keys = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with opened(tmp_path / name) as ledger:
            keys.add(reserve(ledger, "a").idempotency_key)
    assert len(keys) == 2


def test_nothing_is_charged_before_the_run_has_begun(tmp_path: Path) -> None:
    """A ledger without a run takes no reservation, and keeps nothing of the attempt to make one."""
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with pytest.raises(LedgerError, match="begin"):
            reserve(ledger, "a")
        assert ledger.operations() == []
        assert ledger.committed() == Cost()


def test_caps_can_be_raised_for_the_same_run(tmp_path: Path) -> None:
    """A run that spent its cap goes on with a higher one."""
    with opened(tmp_path, Caps(forwards=1)) as ledger:
        reserve(ledger, "a")
        with pytest.raises(BudgetSpentError):
            reserve(ledger, "b")
        ledger.begin(IDENTITY, Caps(forwards=2))
        reserve(ledger, "b")
        assert ledger.caps() == Caps(forwards=2)


def test_a_missing_book_is_a_ledger_error(tmp_path: Path) -> None:
    """Reading does not make a book where there is none."""
    with pytest.raises(LedgerError, match="no ledger"):
        Ledger(tmp_path / "ledger.sqlite", create=False)
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_a_ledger_error(tmp_path: Path) -> None:
    """A file of another kind is refused and left as it was."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"my diary, not a database, at least one hundred bytes long" * 4)
    before = path.read_bytes()
    with pytest.raises(LedgerError):
        Ledger(path)
    assert path.read_bytes() == before


def test_nobody_else_can_read_a_book(tmp_path: Path) -> None:
    """The file is its owner's alone."""
    opened(tmp_path).close()
    assert (tmp_path / "ledger.sqlite").stat().st_mode & 0o077 == 0


def test_many_threads_never_go_over_and_never_fall_short(tmp_path: Path) -> None:
    """Of many reservations at once, exactly as many pass as the cap allows."""
    with opened(tmp_path, Caps(forwards=20)) as ledger:
        passed: list[str] = []

        def work(worker: int) -> None:
            for call in range(10):
                try:
                    passed.append(reserve(ledger, f"{worker}/{call}").name)
                except BudgetSpentError:
                    return

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(passed) == 20
        assert ledger.committed().forwards == 20
        assert ledger.faults() == []


PROCESS = """
import sys, threading
from pathlib import Path
from blackbox_ti.budget import Caps, Cost
from blackbox_ti.errors import BudgetSpentError
from blackbox_ti.ledger import Ledger, RunIdentity

ledger = Ledger(Path(sys.argv[1]))
passed = []
def work(worker):
    for call in range(30):
        cost = Cost(1 + (worker + call) % 3, 1, 0)
        try:
            operation = ledger.reserve(
                name=f"{sys.argv[2]}/{worker}/{call}", label="x", route="loss", request={}, cost=cost)
        except BudgetSpentError:
            continue
        if (worker + call) % 5 == 0:
            ledger.refuse(operation, "refused")
        else:
            ledger.settle(operation, charged=cost, reply=b"r", receipt=None)
            passed.append(cost.forwards)
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
print(sum(passed))
"""


def test_two_processes_of_many_threads_never_go_over(tmp_path: Path) -> None:
    """Two processes with eight threads each, reserving, settling and freeing, stay within one cap together."""
    opened(tmp_path, Caps(forwards=150)).close()
    path = str(tmp_path / "ledger.sqlite")
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), path]
    workers = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    spent = sum(int(worker.communicate(timeout=120)[0]) for worker in workers)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert 147 < spent <= 150
        assert ledger.committed().forwards == spent
        assert ledger.faults() == []


class Budget(RuleBasedStateMachine):
    """The budget against a model of it: a dict of what each operation commits."""

    operations = Bundle("operations")

    @initialize(cap=st.integers(0, 60))
    def begin(self, cap: int) -> None:
        """Open a book with a cap."""
        self.folder = Path(tempfile.mkdtemp())
        self.cap = cap
        self.ledger = opened(self.folder, Caps(forwards=cap))
        self.model: dict[str, tuple[str, int]] = {}
        self.names = itertools.count()

    def teardown(self) -> None:
        """Close and remove the book."""
        if hasattr(self, "ledger"):
            self.ledger.close()
            shutil.rmtree(self.folder)

    def committed(self) -> int:
        """What the model has committed."""
        return sum(cost for _, cost in self.model.values())

    @rule(target=operations, forwards=st.integers(0, 30))
    def reserve(self, forwards: int) -> Any:
        """A call passes exactly where it fits."""
        name = f"n{next(self.names)}"
        fits = self.committed() + forwards <= self.cap
        try:
            operation = reserve(self.ledger, name, Cost(forwards, 0, 0))
        except BudgetSpentError:
            assert not fits
            return multiple()
        assert fits
        self.model[name] = ("reserved", forwards)
        return operation

    @rule(operation=operations, less=st.integers(0, 5))
    def settle(self, operation: Operation, less: int) -> None:
        """A charge may be less than reserved, and stands."""
        charged = max(0, operation.cost.forwards - less)
        if self.model[operation.name][0] != "refused":
            self.ledger.settle(operation, charged=Cost(charged, 0, 0), reply=b"r", receipt=None)
            if self.model[operation.name][0] != "settled":
                self.model[operation.name] = ("settled", charged)

    @rule(operation=operations)
    def refuse(self, operation: Operation) -> None:
        """A refusal frees what nobody has taken over."""
        self.ledger.refuse(operation, "x")
        if self.model[operation.name][0] == "reserved":
            self.model[operation.name] = ("refused", 0)

    @rule(operation=operations)
    def lose(self, operation: Operation) -> None:
        """An unknown outcome keeps the reservation."""
        self.ledger.leave_unknown(operation, "x")
        if self.model[operation.name][0] == "reserved":
            self.model[operation.name] = ("unknown", self.model[operation.name][1])

    @rule()
    def reopen(self) -> None:
        """Another process goes on with the book."""
        self.ledger.close()
        self.ledger = opened(self.folder, Caps(forwards=self.cap))

    @invariant()
    def never_over(self) -> None:
        """The book agrees with the model, and neither is over the cap."""
        if hasattr(self, "ledger"):
            assert self.ledger.committed().forwards == self.committed() <= self.cap
            assert {o.name: o.state for o in self.ledger.operations()} == {n: s for n, (s, _) in self.model.items()}

    @invariant()
    def verifies(self) -> None:
        """The book verifies whatever happened."""
        if hasattr(self, "ledger"):
            assert self.ledger.faults() == []


TestBudget = Budget.TestCase
TestBudget.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
