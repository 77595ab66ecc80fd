"""What an audit found, as data and as a table."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.attempt import Attempt
from blackbox_ti.audit_report import empty_report, tabulate, waste_of
from blackbox_ti.budget import Cost
from blackbox_ti.ledger_records import Operation, State

STATES: list[State] = ["reserved", "settled", "refused", "unknown"]


def operation(entry: int, label: str, cost: Cost, state: State = "settled") -> Operation:
    """Return an operation."""
    return Operation(
        entry=entry,
        name=f"{label}#{entry}",
        label=label,
        route="loss",
        request_sha256="",
        state=state,
        idempotency_key=str(entry),
        parts={},
        cost=cost,
    )


def attempt(key: str | None, *, error: str | None = None, replayed: bool = False) -> Attempt:
    """Return an attempt of two seconds and ten bytes."""
    return Attempt(
        number=1,
        idempotency_key=key,
        method="POST",
        path="/",
        started_at=0.0,
        latency=2.0,
        status=None,
        error=error,
        effect="none" if error else "done",
        bytes_up=10,
        bytes_down=0,
        request_id=None,
        retry_after=None,
        replayed=replayed,
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["initialise", "search/0", "search/1", "search/1/2", "heldout/0", "pictures"]),
            st.builds(Cost, st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)),
            st.sampled_from(STATES),
        )
    )
)
def test_the_groups_and_the_labels_each_add_up_to_the_total(calls: list[tuple[str, Cost, State]]) -> None:
    """Nothing settled is left out of the table or counted twice, and nothing else is in it."""
    operations = [operation(n, *call) for n, call in enumerate(calls)]
    lines = tabulate(operations)
    settled = [o for o in operations if o.state == "settled"]
    total = sum((o.cost for o in settled), Cost())
    assert sum((line.cost for line in lines if line.depth == 0), Cost()) == total
    assert sum(line.calls for line in lines if line.depth == 0) == len(settled)
    for line in lines:
        if line.depth == 1:
            assert line.cost == sum((o.cost for o in settled if f"{o.label}/".startswith(f"{line.label}/")), Cost())


def test_waste_is_what_goes_beyond_one_attempt_a_call() -> None:
    """Retries, replays and failures are counted by kind; uncharged requests are not."""
    waste = waste_of(
        [
            attempt("a", error="timeout"),
            attempt("a", error="timeout"),
            attempt("a", replayed=True),
            attempt("b"),
            attempt(None),
        ]
    )
    assert (waste.attempts, waste.retries, waste.replays) == (4, 2, 1)
    assert (dict(waste.failures), waste.failed_seconds, waste.failed_bytes_up) == ({"timeout": 2}, 4.0, 20)


def test_a_report_is_one_json_object_and_says_what_it_does_not_prove() -> None:
    """Machines get an object with `ok`, people a verdict and the limits of the proof."""
    report = empty_report(["states row 7 was changed"])
    told = json.loads(report.to_json())
    assert told["ok"] is False
    assert told["faults"] == ["states row 7 was changed"]
    assert "FAULT: states row 7 was changed" in report.to_text()
    assert "NOT EVERYTHING MATCHES" in report.to_text()
    assert "do not prove that the host did the work" in report.to_text()
