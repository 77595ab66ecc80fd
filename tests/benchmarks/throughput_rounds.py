"""Arms measured in turn, round after round, so that a busy machine slows them alike; and tables of what came out.

Beside the rate stands the processor time of a forward, of all processes at work, which a busy machine changes little.
Compare it at one thread: idle threads of a pool wait by spinning.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Arm", "Rate", "Table", "median_and_spread", "processor_seconds", "rate_table", "rates_of"]

Arm = Callable[[], int]  # does some work and returns how many forwards it was


@dataclass(frozen=True)
class Table:
    """A part's figures: `rows` by name, each a mapping of columns; `notes` say how they came about."""

    title: str
    rows: Mapping[str, Mapping[str, Any]]
    notes: Sequence[str] = field(default=())

    def __str__(self) -> str:
        columns = list(dict.fromkeys(column for row in self.rows.values() for column in row))
        cells = [["", *columns]]
        cells += [[name, *(_told(row.get(column)) for column in columns)] for name, row in self.rows.items()]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns) + 1)]
        lines = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in cells]
        return "\n".join([f"\n{self.title}", *lines, *self.notes])


def _told(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:.0f}"


@dataclass(frozen=True)
class Rate:
    """Forwards a second over the rounds, and the median share of the reference arm's rate in the same round.

    `processor` is the median of processor seconds a forward, and `processor_share` the reference's over it.
    """

    median: float
    least: float
    most: float
    share: float
    processor: float
    processor_share: float


def processor_seconds(pids: Sequence[int] = ()) -> float:
    """Return the processor seconds of this process and others so far, those of threads that ended included (Linux)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def rates_of(arms: Mapping[str, Arm], rounds: int, *, reference: str, pids: Sequence[int] = ()) -> dict[str, Rate]:
    """Return each arm's rate over `rounds`, after one round to warm up; the order turns from round to round.

    `pids` are other processes at work, servers.
    """
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for arm in arms.values():
        arm()
    names = list(arms)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started, used = time.perf_counter(), processor_seconds(pids)
            forwards = arms[name]()
            wall = time.perf_counter() - started
            seen[name].append((forwards / wall, (processor_seconds(pids) - used) / forwards))
    return {name: _rate(rates, seen[reference]) for name, rates in seen.items()}


def _rate(seen: Sequence[tuple[float, float]], reference: Sequence[tuple[float, float]]) -> Rate:
    rates = [rate for rate, _ in seen]
    shares = [rate / other for rate, (other, _) in zip(rates, reference, strict=True)]
    used, theirs = (statistics.median(each for _, each in pairs) for pairs in (seen, reference))
    middle = statistics.median
    return Rate(middle(rates), min(rates), max(rates), middle(shares), used, theirs / used)


def rate_table(title: str, rates: Mapping[str, Rate], *, reference: str, notes: Sequence[str] = ()) -> Table:
    """Return the rates as a table."""
    rows = {
        name: {
            "forwards/s": rate.median,
            "least": rate.least,
            "most": rate.most,
            f"x {reference}": rate.share,
            "processor ms": 1000 * rate.processor,
            "x by processor": rate.processor_share,
        }
        for name, rate in rates.items()
    }
    return Table(title, rows, notes)


def median_and_spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}
