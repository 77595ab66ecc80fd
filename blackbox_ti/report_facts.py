"""What a report tells of a run, and what its reader should doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from blackbox_ti.audit_report import Line
from blackbox_ti.budget import Caps, Cost
from blackbox_ti.wire import ModelCard

__all__ = ["Facts", "PictureRow", "Point", "RunRecord", "warnings_of"]


class Point(BaseModel):
    """One generation of the history."""

    model_config = ConfigDict(allow_inf_nan=False)

    forwards: int
    loss: float | None = None
    heldout_loss: float | None = None
    score: float | None = None
    heldout_score: float | None = None


class RunRecord(BaseModel):
    """What the page takes from `result.json`; fields of other versions are left alone."""

    model_config = ConfigDict(allow_inf_nan=False)

    placeholder_token: str
    start: str = ""
    stop_reason: str = ""
    heldout_loss_before: float | None = None
    heldout_loss_after: float | None = None
    heldout_score_before: float | None = None
    heldout_score_after: float | None = None
    forwards: int
    queries: int
    seconds: float
    host_changed: int = 0
    settings: Mapping[str, Any] = {}
    plan: Mapping[str, Any] = {}
    model: Mapping[str, Any] = {}
    history: Sequence[Point] = ()

    @property
    def judged(self) -> tuple[str, float | None, float | None]:
        """What the word was judged by, before and after: `loss`, smaller is better, or `score`, larger is."""
        if self.heldout_score_after is not None or self.heldout_score_before is not None:
            return "score", self.heldout_score_before, self.heldout_score_after
        return "loss", self.heldout_loss_before, self.heldout_loss_after


@dataclass(frozen=True)
class PictureRow:
    """Pictures under one caption: their names and PNG files."""

    caption: str
    pictures: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All a report tells. `norms` are the L2 norms of the word's vectors by encoder; `open_calls` have no outcome."""

    record: RunRecord
    endpoint: str | None
    card: ModelCard | None
    caps: Caps
    lines: Sequence[Line]
    total: Cost
    open_calls: int
    faults: Sequence[str]
    norms: Mapping[str, Sequence[float]]
    pictures: Sequence[PictureRow]


def warnings_of(facts: Facts) -> list[str]:
    """Return what the reader of a run's figures must know before trusting them."""
    record = facts.record
    measure, before, after = record.judged
    found = [f"The run's book does not verify: {fault}." for fault in facts.faults]
    if record.stop_reason == "interrupted":
        found.append("The search was interrupted; optimize --resume goes on with it.")
    if record.stop_reason == "budget_spent":
        found.append("A budget was spent before the plan was finished.")
    if record.host_changed:
        found.append("The host answered the same question otherwise during the run; its model may have been swapped.")
    if before is None or after is None:
        found.append("How good the word is was not measured on held-out samples.")
    elif (after >= before) if measure == "loss" else (after <= before):
        found.append("The word is no better than its start on the held-out samples.")
    if facts.open_calls:
        found.append(f"{facts.open_calls} calls have no known outcome yet; audit settles them.")
    if facts.card is not None and facts.card.receipt_public_key is None:
        found.append("The host signs no receipts: what it charged rests on its word.")
    return found
