"""What a probe's findings come to."""

from __future__ import annotations

import json

import pytest

from blackbox_ti.budget import Cost
from blackbox_ti.doctor_report import DoctorReport, Finding, Recommendation, Status, Verdict

SETTINGS = Recommendation(objective="loss", popsize=12, samples=8, concurrency=4)


def _report(*statuses: Status, recommended: Recommendation | None = SETTINGS) -> DoctorReport:
    findings = [Finding(f"check {n}", status, "detail") for n, status in enumerate(statuses)]
    return DoctorReport(
        endpoint="http://x", findings=findings, cost=Cost(100, 5, 0), spent=Cost(90, 4, 0), recommended=recommended
    )


@pytest.mark.parametrize(
    ("statuses", "verdict", "code"),
    [
        ([Status.OK, Status.SKIPPED], Verdict.OK, 0),
        ([Status.OK, Status.LIMIT], Verdict.LIMITS, 20),
        ([Status.LIMIT, Status.BAD], Verdict.NOT_USABLE, 21),
    ],
)
def test_the_worst_finding_decides(statuses: list[Status], verdict: Verdict, code: int) -> None:
    """What was skipped counts for nothing."""
    assert _report(*statuses).verdict is verdict
    assert verdict.exit_code == code


def test_without_settings_to_recommend_it_is_not_usable() -> None:
    """A host that could not be asked is no usable one, though nothing bad was found."""
    assert _report(Status.OK, recommended=None).verdict is Verdict.NOT_USABLE


def test_text_and_json_say_the_same() -> None:
    """Each finding, the cost, the options to give, and the verdict."""
    report = _report(Status.OK, Status.LIMIT)
    text, told = report.to_text(), json.loads(report.to_json())
    assert "limit    check 1  detail" in text
    assert "spent: 90 of 100 forwards" in text
    assert "--objective loss --popsize 12 --samples 8 (4 requests at a time)" in text
    assert text.endswith("verdict: usable with limits")
    assert (told["verdict"], told["exit_code"], told["recommended"]["popsize"]) == ("usable with limits", 20, 12)
    assert [f["status"] for f in told["findings"]] == ["ok", "limit"]
