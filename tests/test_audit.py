"""Holding the books against each other."""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from blackbox_ti.audit import HostBook, add_parser, audit, fetch_host_book
from blackbox_ti.audit_report import AuditReport
from blackbox_ti.booked import BookedEndpoint
from blackbox_ti.budget import Caps, Cost
from blackbox_ti.errors import LedgerError
from blackbox_ti.ledger import Ledger, RunIdentity
from tests.fake_host import FakeHost, fake_endpoint, loss_request, png

LABELS = ["initialise", "search/0", "search/0", "search/1", "heldout/1"]


class Audited:
    """A finished run on a fake host, and its audit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = FakeHost()
        self.now = 1_700_000_000.0
        self.lose: set[int] = set()
        with self.ledger() as ledger:
            ledger.begin(RunIdentity(endpoint="http://127.0.0.1:9", settings={}, pictures=[]), Caps(forwards=1000))
            self.ask(ledger, LABELS)

    def ledger(self) -> Ledger:
        """Open the book."""
        return Ledger(self.folder / "ledger.sqlite", clock=lambda: self.now)

    def ask(self, ledger: Ledger, labels: list[str], *, crash: str | None = None) -> None:
        """Make a call a label; `crash` loses the reply of the last, `after` or `before` the host acted."""
        left = [len(labels)]

        def answer(request: httpx.Request) -> httpx.Response:
            if request.url.path == "/v1/loss":
                left[0] -= 1
                if crash == "before" and left[0] == 0:
                    raise KeyboardInterrupt
            response = self.host.handle(request)
            if crash == "after" and left[0] == 0:
                raise KeyboardInterrupt
            return response

        inner = fake_endpoint(http=httpx.MockTransport(answer), on_attempt=ledger.record_attempt)
        endpoint = BookedEndpoint(inner, ledger)
        concept = endpoint.register_concept([png()])
        with contextlib.suppress(KeyboardInterrupt):
            for n, label in enumerate(labels):
                endpoint.losses(loss_request(concept, np.full((2, 1, 8), n), seed=n), label=label)

    def report(self, **changes: Any) -> AuditReport:
        """Audit against the host's book, parts of it changed."""
        told = {**vars(fetch_host_book(fake_endpoint(self.host))), **changes}
        with self.ledger() as ledger:
            return audit(ledger, HostBook(**told))

    def edit(self, statement: str, *values: Any) -> None:
        """Change the book behind the ledger's back."""
        with contextlib.closing(sqlite3.connect(self.folder / "ledger.sqlite")) as connection, connection:
            connection.execute(statement, values)


@pytest.fixture
def done(tmp_path: Path) -> Audited:
    """A finished run of five calls, 8 forwards each."""
    return Audited(tmp_path)


def test_a_sound_run_matches(done: Audited) -> None:
    """Chain, receipts, attempts and the host's book agree, and the table says what was spent on what."""
    report = done.report()
    assert report.ok
    assert report.total == Cost(40, 10, 40 * 3 + 10 * 7)
    spent = {line.label: (line.calls, line.cost.forwards) for line in report.lines if line.depth == 0}
    assert spent == {"initialise": (1, 8), "search": (3, 24), "heldout": (1, 8)}
    assert {line.label: line.calls for line in report.lines if line.depth == 1} == {
        "search/0": 2,
        "search/1": 1,
        "heldout/1": 1,
    }
    assert (report.waste.attempts, report.waste.retries) == (5, 0)


def test_a_run_can_be_audited_without_its_host(done: Audited) -> None:
    """The ledger and the receipts in it are checked alone, and the report says that the host was not asked."""
    with done.ledger() as ledger:
        report = audit(ledger)
    assert report.ok
    assert not report.host_checked
    assert "ledger alone" in report.to_text()


def test_other_runs_of_the_account_are_no_fault(done: Audited, tmp_path: Path) -> None:
    """Receipts for keys this run never drew are counted apart."""
    endpoint = fake_endpoint(done.host)
    concept = endpoint.register_concept([png()])
    endpoint.losses(loss_request(concept, np.zeros((1, 1, 8))), label="x")
    report = done.report()
    assert report.ok
    assert report.other_receipts == 1


def test_a_changed_row_is_named_and_nothing_else_is_believed(done: Audited) -> None:
    """A book that does not verify is not added up."""
    done.edit("UPDATE states SET forwards = 1 WHERE entry = (SELECT max(entry) FROM states)")
    report = done.report()
    assert not report.ok
    assert any("states row" in fault for fault in report.faults)
    assert report.lines == ()


def test_a_lost_reply_that_was_charged_is_settled_by_the_hosts_receipt(done: Audited) -> None:
    """An unknown outcome becomes a known charge."""
    with done.ledger() as ledger:
        done.ask(ledger, ["late/0", "late/1"], crash="after")
    with done.ledger() as ledger:
        assert not audit(ledger).ok
    report = done.report()
    assert report.ok
    assert len(report.settled) == 1
    assert "charged, by receipt 7" in report.settled[0]
    assert report.total.forwards == 56 == done.host.forwards
    assert report.unanswered.forwards == 8
    assert done.report().settled == []


def test_a_lost_call_that_was_not_charged_is_freed_after_an_hour(done: Audited) -> None:
    """A host without a receipt may still be at work; an hour later it is not."""
    with done.ledger() as ledger:
        done.ask(ledger, ["late/0", "late/1"], crash="before")
    report = done.report()
    assert not report.ok
    assert len(report.unknown) == 1
    assert "audit again" in report.unknown[0]
    assert report.reserved.forwards == 8
    done.now += 3601.0
    report = done.report()
    assert report.ok
    assert "not charged" in report.settled[0]
    assert report.reserved.forwards == 0


def test_a_receipt_missing_at_the_host_is_found(done: Audited) -> None:
    """A host that shows a shorter or another chain than it signed is contradicted by the ledger."""
    report = done.report(receipts=done.host.receipts[:4], head=done.host.receipts[3].hash)
    assert any("heldout/1#1" in fault and "missing" in fault for fault in report.faults)


def test_a_double_charge_is_found(done: Audited) -> None:
    """Two receipts under one key are named with their numbers."""
    first = done.host.receipts[0]
    done.host._charge(first.idempotency_key, first.request_sha256, first.route, (8, 2))
    report = done.report()
    assert any("charged 2 times, receipts [1, 6]" in fault for fault in report.faults)


def test_a_charge_for_what_was_freed_is_found(done: Audited) -> None:
    """A call taken for refused but charged after all is a fault, whatever key it had."""
    with done.ledger() as ledger:
        operation = ledger.reserve(name="z", label="z", route="loss", request={}, cost=Cost(8, 2, 38))
        ledger.refuse(operation, "refused")
    done.host._charge(operation.idempotency_key, operation.request_sha256, "/v1/loss", (8, 2))
    assert any("taken for not charged" in fault for fault in done.report().faults)


def test_a_changed_key_of_the_host_is_found(done: Audited) -> None:
    """Receipts are held against the key of the day the run began."""
    assert any("another key" in fault for fault in done.report(public_key="0" * 64).faults)


def test_a_host_that_signs_nothing_cannot_be_checked(done: Audited) -> None:
    """No key and no receipts is not a match."""
    done.edit("DELETE FROM models")
    report = done.report(public_key=None)
    assert not report.ok


def test_forged_receipts_are_named(done: Audited) -> None:
    """A receipt changed at the host is named by its number."""
    forged = [
        *done.host.receipts[:2],
        done.host.receipts[2].model_copy(update={"account": "x"}),
        *done.host.receipts[3:],
    ]
    assert any(fault.startswith("receipt 3 was changed") for fault in done.report(receipts=forged).faults)


def test_an_attempt_under_no_operation_is_found(done: Audited) -> None:
    """Something went over the wire that no operation knows."""
    with done.ledger() as ledger:
        _, known = ledger.attempts()[-1]
        ledger.record_attempt(type(known)(**{**vars(known), "idempotency_key": "stray"}))
    assert any("belongs to no operation" in fault for fault in done.report().faults)


def test_a_reply_no_attempt_brought_is_found(done: Audited) -> None:
    """A settled reply must have come over the wire."""
    with done.ledger() as ledger:
        operation = ledger.reserve(name="z", label="z", route="loss", request={}, cost=Cost(1, 1, 1))
        ledger.settle(operation, charged=Cost(1, 1, 1), reply=b"{}", receipt=None)
    assert any("no attempt brought" in fault for fault in done.report().faults)


def test_spending_over_the_cap_in_force_is_found(done: Audited) -> None:
    """What is committed is held against the caps."""
    with done.ledger() as ledger:
        ledger.begin(RunIdentity(endpoint="http://127.0.0.1:9", settings={}, pictures=[]), Caps(forwards=39))
    assert any("over its cap" in fault for fault in done.report().faults)


@pytest.mark.parametrize("change", [{"forwards": 4}, {"idempotency_key": "x"}, {"request_sha256": "0" * 64}])
def test_a_receipt_that_disagrees_with_its_operation_is_found(done: Audited, change: dict[str, Any]) -> None:
    """A receipt written down under an operation it is not for is named with that operation."""
    with done.ledger() as ledger:
        operation = ledger.reserve(name="z", label="z", route="loss", request={}, cost=Cost(8, 2, 38))
        done.host._charge(operation.idempotency_key, operation.request_sha256, "/v1/loss", (8, 2))
        receipt = done.host.receipts[-1].model_copy(update=change).model_dump_json()
        ledger.settle(operation, charged=Cost(8, 2, 38), reply=None, receipt=receipt)
    assert any(fault.startswith("z (operations row") and "disagree" in fault for fault in done.report().faults)


def test_a_receipt_that_cannot_be_read_is_found(done: Audited) -> None:
    """Junk in the place of a receipt is named with its operation."""
    with done.ledger() as ledger:
        operation = ledger.reserve(name="z", label="z", route="loss", request={}, cost=Cost(8, 2, 38))
        ledger.settle(operation, charged=Cost(8, 2, 38), reply=None, receipt="{}")
    assert any("cannot be read" in fault for fault in done.report().faults)


def test_without_a_key_receipts_prove_nothing(tmp_path: Path) -> None:
    """A receipt that no known key can check is a fault, not a proof."""
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.begin(RunIdentity(endpoint="e", settings={}, pictures=[]), Caps())
        host = FakeHost()
        operation = ledger.reserve(name="z", label="z", route="loss", request={}, cost=Cost(8, 2, 38))
        charge = host._charge(operation.idempotency_key, operation.request_sha256, "/v1/loss", (8, 2))
        assert charge.receipt is not None
        ledger.settle(operation, charged=Cost(8, 2, 38), reply=None, receipt=charge.receipt.model_dump_json())
        assert any("no key to check it" in fault for fault in audit(ledger).faults)
        faults = audit(ledger, HostBook(host.receipts, None, None)).faults
        assert any("signs no receipts" in fault for fault in faults)


def command(*words: str) -> int:
    """Run the audit's command line."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["audit", *words])
    return int(arguments.run(arguments))


def test_the_command_line_prints_a_table_or_json(done: Audited, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 where everything matches, data on stdout."""
    assert command(str(done.folder)) == 0
    assert "everything matches" in capsys.readouterr().out
    assert command(str(done.folder), "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"]["forwards"] == 40


def test_the_command_line_fails_where_something_does_not_match(
    done: Audited, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault is the ledger's exit code, and the row is in the output."""
    done.edit("UPDATE caps SET forwards = 5")
    assert command(str(done.folder)) == LedgerError.exit_code
    assert "caps row" in capsys.readouterr().out


def test_a_folder_without_a_ledger_is_a_ledger_error(tmp_path: Path) -> None:
    """There is nothing to audit, and nothing is made."""
    with pytest.raises(LedgerError, match="no ledger"):
        command(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
