"""What a report tells: records of any version, and a warning for whatever a reader should doubt."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from blackbox_ti.report_facts import RunRecord, warnings_of
from tests.reports import CARD, facts, record


def test_a_good_run_has_no_warnings() -> None:
    """A warning means something because most runs have none."""
    assert warnings_of(facts()) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stop_reason": "interrupted"}, "interrupted"),
        ({"stop_reason": "budget_spent"}, "before the plan was finished"),
        ({"host_changed": 1}, "swapped"),
        ({"heldout_loss_after": None}, "not measured"),
        ({"heldout_loss_before": None}, "not measured"),
        ({"heldout_loss_after": 0.5}, "no better than its start"),
        ({"heldout_score_before": 0.3, "heldout_score_after": 0.3}, "no better than its start"),
        ({"heldout_score_before": 0.3}, "not measured"),
    ],
)
def test_what_the_record_shows_amiss_is_warned_of(changes: dict[str, Any], told: str) -> None:
    """Each with its own sentence, and only that."""
    (warning,) = warnings_of(facts(record(**changes)))
    assert told in warning


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"faults": ["states row 4"]}, "does not verify: states row 4"),
        ({"open_calls": 2}, "2 calls have no known outcome"),
        ({"card": CARD.model_copy(update={"receipt_public_key": None})}, "signs no receipts"),
    ],
)
def test_what_the_book_shows_amiss_is_warned_of(changes: dict[str, Any], told: str) -> None:
    """A broken row, a call without an outcome, a host that signs nothing."""
    (warning,) = warnings_of(facts(**changes))
    assert told in warning


def test_every_warning_is_given_at_once() -> None:
    """One does not hide another."""
    doubtful = record(stop_reason="interrupted", host_changed=2, heldout_loss_after=9.0)
    assert len(warnings_of(facts(doubtful, faults=["a", "b"], open_calls=1))) == 6


def test_a_smaller_loss_and_a_larger_score_are_better() -> None:
    """A run on pictures is judged by its scores, whatever losses it has."""
    assert record().judged == ("loss", 0.5, 0.25)
    scored = record(heldout_score_before=0.1, heldout_score_after=0.4)
    assert scored.judged == ("score", 0.1, 0.4)
    assert warnings_of(facts(scored)) == []


def test_a_record_of_another_version_reads_and_a_broken_one_does_not() -> None:
    """Unknown fields are left alone; what is no number is no figure."""
    told = record().model_dump()
    assert RunRecord.model_validate(told | {"surprise": 1}) == record()
    for wrong in ({"seconds": float("nan")}, {"forwards": None}, {"history": [{"loss": 1.0}]}):
        with pytest.raises(ValidationError):
            RunRecord.model_validate(told | wrong)
