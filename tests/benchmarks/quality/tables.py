"""What the cells say together: means over subjects, spread over seeds, shares of the gap that the gradient closes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "GRADIENT",
    "Results",
    "failures_table",
    "forwards_to",
    "main_table",
    "shares_table",
    "speed_table",
    "summary",
]

Results = Sequence[Mapping[str, Any]]
Key = tuple[str, int]

GRADIENT = "gradient @ 5,000"
_BASES = {"from start": "start", "from word": "word"}
_FIGURES = {
    "loss": "heldout_loss",
    "CLIP-I": "clip_i",
    "attributes": "attributes",
    "edit CLIP-I": "edit_clip_i",
    "edit CLIP-T": "edit_clip_t",
    "survived": "edit_survived",
    "followed": "edit_followed",
    "both": "edit_both",
    "norm": "norm",
    "forwards": "forwards",
    "seconds": "seconds",
    "peak MiB": "peak_memory",
}
_SCALES = {"peak_memory": 2**-20}
_DIGITS = {"loss": 4, "norm": 2, "forwards": 0, "seconds": 0, "peak MiB": 0}


def _titles(results: Results) -> list[str]:
    return list(dict.fromkeys(r["title"] for r in results))


def _by_key(results: Results, title: str) -> dict[Key, Mapping[str, Any]]:
    return {(r["subject"], r["seed"]): r for r in results if r["title"] == title}


def _spread(values: Mapping[Key, float]) -> tuple[float, float]:
    """Mean over subjects of each seed: their mean, and their standard deviation over seeds."""
    seeds = sorted({seed for _, seed in values})
    means = [float(np.mean([v for (_, s), v in values.items() if s == seed])) for seed in seeds]
    return float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")


def gaps(results: Results, title: str, base: str) -> dict[Key, tuple[float, float]]:
    """Return what a method gained and what the gradient at 5,000 gained over `base`, for each subject and seed."""
    mine, before, best = (_by_key(results, t) for t in (title, base, GRADIENT))
    keys = mine.keys() & before.keys() & best.keys()
    loss = "heldout_loss"
    return {k: (before[k][loss] - mine[k][loss], before[k][loss] - best[k][loss]) for k in sorted(keys)}


def gap_closed(pairs: Mapping[Key, tuple[float, float]]) -> tuple[float, float, float]:
    """Return the share of the gap closed, summed over subjects: mean and deviation over seeds, and the worst subject."""
    seeds = sorted({seed for _, seed in pairs})
    shares = []
    for seed in seeds:
        mine, best = (sum(p[i] for (_, s), p in pairs.items() if s == seed) for i in (0, 1))
        shares.append(mine / best if best else float("nan"))
    single = [mine / best for mine, best in pairs.values() if best > 0]
    deviation = float(np.std(shares, ddof=1)) if len(shares) > 1 else float("nan")
    return float(np.mean(shares)), deviation, min(single, default=float("nan"))


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return title -> figure -> (mean, deviation over seeds), with shares of the gap as (mean, deviation, worst)."""
    told: dict[str, dict[str, Any]] = {}
    for title in _titles(results):
        rows = _by_key(results, title)
        row: dict[str, Any] = {"cells": len(rows)}
        for label, name in _FIGURES.items():
            values = {k: r[name] * _SCALES.get(name, 1) for k, r in rows.items() if r.get(name) is not None}
            row[label] = _spread(values) if values else None
        for label, base in _BASES.items():
            pairs = gaps(results, title, base)
            row[label] = gap_closed(pairs) if pairs else None
        told[title] = row
    return told


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _number(pair: tuple[float, ...] | None, digits: int = 3) -> str:
    if pair is None:
        return ""
    told = f"{pair[0]:,.{digits}f}"
    return told if digits == 0 or np.isnan(pair[1]) else f"{told} ± {pair[1]:.{digits}f}"


def _percent(pair: tuple[float, ...] | None) -> str:
    if pair is None:
        return ""
    spread = "" if np.isnan(pair[1]) else f" ± {100 * pair[1]:.0f}"
    return f"{100 * pair[0]:.0f}{spread} % (worst {100 * pair[2]:.0f} %)"


def main_table(results: Results) -> str:
    """Return one row a method and mark."""
    rows = [
        [
            title,
            str(row["cells"]),
            *(_percent(row[label]) for label in _BASES),
            *(_number(row[label], _DIGITS.get(label, 3)) for label in _FIGURES),
        ]
        for title, row in summary(results).items()
    ]
    shares = [f"gap closed {label}" for label in _BASES]
    return _markdown(["method", "cells", *shares, *_FIGURES], rows)


def shares_table(results: Results) -> str:
    """Return the share of the gap from the plain word that each method closes, by kind of concept."""
    kinds = sorted({r["kind"] for r in results})
    rows = []
    for title in _titles(results):
        shares = []
        for kind in kinds:
            pairs = gaps([r for r in results if r["kind"] == kind], title, "word")
            shares.append(_percent(gap_closed(pairs)) if pairs else "")
        rows.append([title, *shares])
    return _markdown(["method", *kinds], rows)


def failures_table(results: Results) -> str:
    """Return how far each method's pictures come over the plain word's in CLIP-I: the worst run, and how many lose."""
    before, rows = _by_key(results, "word"), []
    for title in _titles(results):
        mine = _by_key(results, title)
        keys = [k for k in sorted(mine.keys() & before.keys()) if "clip_i" in mine[k] and "clip_i" in before[k]]
        gains = {k: mine[k]["clip_i"] - before[k]["clip_i"] for k in keys}
        if gains and title != "word":
            worst = min(gains, key=lambda k: gains[k])
            lost = sum(gain <= 0 for gain in gains.values())
            rows.append([title, f"{gains[worst]:+.3f} ({worst[0]}, seed {worst[1]})", f"{lost} of {len(gains)}"])
    return _markdown(["method", "least gain in CLIP-I over the plain word", "runs without a gain"], rows)


def forwards_to(result: Mapping[str, Any], loss: float) -> float | None:
    """Return the forwards after which a run's answer was at `loss` or below; None if it never was."""
    return next((forwards for forwards, reached in result["curve"] if reached <= loss), None)


def speed_table(results: Results, of: Callable[[str], bool] = lambda title: title.startswith("ours")) -> str:
    """Return how many times fewer forwards our runs need to the loss that each rival ends with, on one bank."""
    rows = []
    rivals = [t for t in _titles(results) if "@" in t and not of(t)]
    for mine in filter(of, _titles(results)):
        ours = _by_key(results, mine)
        for title in rivals:
            theirs = _by_key(results, title)
            ratios = [_ratio(ours[k], theirs[k]) for k in sorted(ours.keys() & theirs.keys())]
            reached = [r for r in ratios if r is not None]
            if ratios:
                median = f"{np.median(reached):.1f}" if reached else ""
                rows.append([mine, title, f"{len(reached)} of {len(ratios)}", median])
    return _markdown(["method", "to the last loss of", "runs that reach it", "times fewer forwards (median)"], rows)


def _ratio(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float | None:
    if not theirs["curve"]:
        return None
    forwards, loss = theirs["curve"][-1]
    mine = forwards_to(ours, loss)
    return None if mine is None else forwards / mine
