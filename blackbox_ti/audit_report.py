"""What an audit found, as plain data, JSON and a table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from blackbox_ti.attempt import Attempt
from blackbox_ti.budget import Cost
from blackbox_ti.ledger_records import Operation
from blackbox_ti.receipts import PROOF

__all__ = ["AuditReport", "Line", "Waste", "empty_report", "tabulate", "waste_of"]


@dataclass(frozen=True)
class Line:
    """What was charged under one label: calls and their cost; `depth` is 0 for a group, 1 for a member of it."""

    label: str
    depth: int
    calls: int
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Waste:
    """What went over the wire beyond one attempt a call; none of it was charged. Seconds are of failed attempts."""

    attempts: int
    retries: int
    replays: int
    failures: Mapping[str, int]
    failed_seconds: float
    failed_bytes_up: int


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """The outcome of an audit; `ok` only where every book is whole and they all agree.

    `unanswered` is the part of `total` that was charged for replies that never arrived, `reserved` what is held for
    outcomes not known yet. `unknown` names the operations whose outcome nothing settles yet, `settled` those this
    audit settled. `host_checked` says whether the host's own receipts were compared. `lost` names the calls that count
    as spent at a host that cannot be asked for their replies, `not_guaranteed` what such a host does not hold to.
    """

    endpoint: str | None
    currency: str
    faults: Sequence[str]
    unknown: Sequence[str]
    settled: Sequence[str]
    lines: Sequence[Line]
    total: Cost
    unanswered: Cost
    reserved: Cost
    waste: Waste
    host_checked: bool
    other_receipts: int
    lost: Sequence[str] = ()
    not_guaranteed: Sequence[str] = ()
    proof: str = field(default=PROOF)

    @property
    def ok(self) -> bool:
        """Whether everything matches."""
        return not self.faults and not self.unknown

    def to_json(self) -> str:
        """Return the report as one JSON object."""
        return json.dumps({"ok": self.ok, **asdict(self)}, sort_keys=True)

    def to_text(self) -> str:
        """Return the report for a person."""
        return "\n".join([*self._table(), "", *self._waste(), "", *self._verdict()])

    def _table(self) -> list[str]:
        width = max([len("label"), *(len(line.label) + 2 for line in self.lines)])
        head = f"{'label':<{width}}  {'calls':>7}  {'queries':>9}  {'forwards':>10}  {self.currency:>12}"
        calls = sum(line.calls for line in self.lines if line.depth == 0)
        rows = [*self.lines, Line("total", 0, calls, self.total)]
        return [head, *(_row(line, width) for line in rows)]

    def _waste(self) -> list[str]:
        w = self.waste
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(w.failures.items())) or "none"
        return [
            f"waste: {w.attempts} attempts, {w.retries} retries, {w.replays} replayed replies (charged once)",
            f"       failed attempts: {kinds}; {w.failed_seconds:.1f} s, {w.failed_bytes_up} bytes sent in vain",
            f"charged for replies that never arrived: {self.unanswered.forwards} forwards",
            f"held for calls without a known outcome: {self.reserved.forwards} forwards",
        ]

    def _verdict(self) -> list[str]:
        books = (
            "ledger and the host's receipts" if self.host_checked else "ledger alone; give --endpoint for the host's"
        )
        lines = [f"checked: {books}"]
        if self.other_receipts:
            lines.append(f"receipts of this account for other runs: {self.other_receipts}")
        lines += [f"not guaranteed by this host: {what}" for what in self.not_guaranteed]
        lines += [f"lost, counts as spent: {name}" for name in self.lost]
        lines += [f"settled now: {name}" for name in self.settled]
        lines += [f"UNKNOWN: {name}" for name in self.unknown]
        lines += [f"FAULT: {fault}" for fault in self.faults]
        return [*lines, "everything matches" if self.ok else "NOT EVERYTHING MATCHES", "", self.proof]


def _row(line: Line, width: int) -> str:
    cost = line.cost
    money = f"{cost.price_micros / 1e6:.6f}"
    label = "  " * line.depth + line.label
    return f"{label:<{width}}  {line.calls:>7}  {cost.queries:>9}  {cost.forwards:>10}  {money:>12}"


def empty_report(faults: Sequence[str]) -> AuditReport:
    """Return the report of a book that says nothing but what is wrong with it."""
    return AuditReport(
        endpoint=None,
        currency="",
        faults=faults,
        unknown=(),
        settled=(),
        lines=(),
        total=Cost(),
        unanswered=Cost(),
        reserved=Cost(),
        waste=waste_of(()),
        host_checked=False,
        other_receipts=0,
    )


def tabulate(operations: Iterable[Operation]) -> list[Line]:
    """Return what settled operations cost: a line a group (`search`), and under it one a member (`search/3`)."""
    groups: dict[str, dict[str, list[Cost]]] = {}
    for operation in operations:
        if operation.state == "settled":
            group, *rest = operation.label.split("/")
            members = groups.setdefault(group, {})
            members.setdefault("/".join([group, *rest[:1]]), []).append(operation.cost)
    lines = []
    for group, members in groups.items():
        lines.append(_line(group, 0, [cost for costs in members.values() for cost in costs]))
        lines += [_line(label, 1, costs) for label, costs in members.items() if label != group]
    return lines


def _line(label: str, depth: int, costs: Sequence[Cost]) -> Line:
    return Line(label, depth, len(costs), sum(costs, Cost()))


def waste_of(attempts: Sequence[Attempt]) -> Waste:
    """Return what the attempts of charged calls cost beyond the one each call needs."""
    charged = [attempt for attempt in attempts if attempt.idempotency_key is not None]
    failed = [attempt for attempt in charged if attempt.error is not None]
    calls = {attempt.idempotency_key for attempt in charged}
    return Waste(
        attempts=len(charged),
        retries=len(charged) - len(calls),
        replays=sum(attempt.replayed for attempt in charged),
        failures=dict(Counter(str(attempt.error) for attempt in failed)),
        failed_seconds=sum(attempt.latency for attempt in failed),
        failed_bytes_up=sum(attempt.bytes_up for attempt in failed),
    )
