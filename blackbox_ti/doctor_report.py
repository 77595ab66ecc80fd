"""What a probe of a host found: findings, a verdict, and the settings it recommends, as plain data, JSON and text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from blackbox_ti.budget import Cost

__all__ = ["DoctorReport", "Finding", "Recommendation", "Status", "Verdict"]


class Status(StrEnum):
    """How a check ended; `skipped` where it could not be made or had nothing to look at."""

    OK = "ok"
    LIMIT = "limit"
    BAD = "bad"
    SKIPPED = "skipped"


class Verdict(StrEnum):
    """What all checks come to."""

    OK = "ok"
    LIMITS = "usable with limits"
    NOT_USABLE = "not usable"

    @property
    def exit_code(self) -> int:
        """The command line's exit code: 0, 20 or 21."""
        return {Verdict.OK: 0, Verdict.LIMITS: 20, Verdict.NOT_USABLE: 21}[self]


@dataclass(frozen=True)
class Finding:
    """One check: what it found in words, and the numbers behind it."""

    check: str
    status: Status
    detail: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """Settings for a run on the host; a word's `samples` tell words apart by twice the noise of their means."""

    objective: str
    popsize: int
    samples: int
    concurrency: int


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """A whole probe; `cost` is what was said beforehand, `spent` what the replies say was charged."""

    endpoint: str
    findings: Sequence[Finding]
    cost: Cost
    spent: Cost
    recommended: Recommendation | None

    @property
    def verdict(self) -> Verdict:
        """The worst finding decides."""
        found = {finding.status for finding in self.findings}
        if Status.BAD in found or self.recommended is None:
            return Verdict.NOT_USABLE
        return Verdict.LIMITS if Status.LIMIT in found else Verdict.OK

    def to_json(self) -> str:
        """Return the report as one JSON object."""
        return json.dumps({"verdict": self.verdict.value, "exit_code": self.verdict.exit_code, **asdict(self)})

    def to_text(self) -> str:
        """Return the report for a person."""
        width = max(len(finding.check) for finding in self.findings)
        lines = [f"{f.status.value:<8} {f.check:<{width}}  {f.detail}" for f in self.findings]
        spent = f"spent: {self.spent.forwards} of {self.cost.forwards} forwards, {self.spent.queries} queries"
        return "\n".join([*lines, "", spent, *self._settings(), f"verdict: {self.verdict.value}"])

    def _settings(self) -> list[str]:
        r = self.recommended
        if r is None:
            return []
        options = f"--objective {r.objective} --popsize {r.popsize} --samples {r.samples}"
        return [f"recommended: {options} ({r.concurrency} requests at a time)"]
