"""Arms measured in turn, round after round, so that a busy machine slows them alike; and tables of what came out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Arm", "Rate", "Table", "median_and_spread", "rate_table", "rates_of"]

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
    """Forwards a second over the rounds, and the median share of the reference arm's rate in the same round."""

    median: float
    least: float
    most: float
    share: float


def rates_of(arms: Mapping[str, Arm], rounds: int, *, reference: str) -> dict[str, Rate]:
    """Return each arm's rate over `rounds`, after one round to warm up; the order turns from round to round."""
    seen: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():
        arm()
    names = list(arms)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            forwards = arms[name]()
            seen[name].append(forwards / (time.perf_counter() - started))
    return {name: _rate(rates, seen[reference]) for name, rates in seen.items()}


def _rate(rates: Sequence[float], reference: Sequence[float]) -> Rate:
    shares = [rate / other for rate, other in zip(rates, reference, strict=True)]
    return Rate(statistics.median(rates), min(rates), max(rates), statistics.median(shares))


def rate_table(title: str, rates: Mapping[str, Rate], *, reference: str, notes: Sequence[str] = ()) -> Table:
    """Return the rates as a table."""
    rows = {
        name: {"forwards/s": rate.median, "least": rate.least, "most": rate.most, f"x {reference}": rate.share}
        for name, rate in rates.items()
    }
    return Table(title, rows, notes)


def median_and_spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}
