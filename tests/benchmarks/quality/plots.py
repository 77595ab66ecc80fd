"""Curves against forwards, and the grid of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.sheet import contact_sheet
from blackbox_ti.wire import Tensor, decode_tensor
from tests.benchmarks.quality.measures import portraits
from tests.benchmarks.quality.subjects import Subject
from tests.benchmarks.quality.tables import GRADIENT, Results
from tests.benchmarks.quality.workbench import WORD, Workbench

__all__ = ["curves", "picture_grid", "plot_curves"]

Array = NDArray[np.float64]
_COLUMNS = 5
_OWN_START = ("paper", "gradient, from the word")
_PAYS = "ours"


def curves(results: Results, forwards: Array) -> dict[str, Array]:
    """Return title -> mean loss (F,) of the answers at so many forwards, on the level of the whole held-out bank.

    Before its first answer a run is at our start, or nowhere yet where it has a start of its own. Ours pays for its
    start and is nowhere before; rivals are given it.
    """
    starts = {(r["subject"], r["seed"]): r for r in results if r["title"] == "start"}
    levels, found = _levels(results), dict[str, list[Array]]()
    for r in results:
        if r["curve"] and (r["subject"], r["seed"]) in starts:
            at, loss = np.array(r["curve"]).T
            at, loss = np.append(at, r["forwards"]), np.append(loss + levels.get(r["subject"], 0.0), r["heldout_loss"])
            start = starts[r["subject"], r["seed"]]
            begins = start["forwards"] if r["method"].startswith(_PAYS) else 0
            before = np.nan if r["title"].startswith(_OWN_START) else start["heldout_loss"]
            index = np.searchsorted(at, forwards, side="right") - 1
            line = np.where(index >= 0, loss[np.maximum(index, 0)], before)
            under_way = (forwards >= begins) & (forwards <= r["forwards"] * 1.02)
            found.setdefault(r["title"], []).append(np.where(under_way, line, np.nan))
    return {title: np.mean(lines, axis=0) for title, lines in found.items()}


def _levels(results: Results) -> dict[str, float]:
    """How much higher a subject's loss is on the whole bank than on the part of it on which curves are measured.

    Gradient descent tells: the last word of its curve is its answer.
    """
    ends: dict[str, list[float]] = {}
    for r in results:
        if r["title"] == GRADIENT and r["curve"]:
            ends.setdefault(r["subject"], []).append(r["heldout_loss"] - r["curve"][-1][1])
    return {subject: float(np.mean(differences)) for subject, differences in ends.items()}


def plot_curves(results: Results, path: Path) -> None:
    """Draw the mean loss of every method against forwards."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    at = np.geomspace(100, max(r["forwards"] for r in results) or 100, 200)
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for title, line in curves(results, at).items():
        axes.plot(at, line, label=title)
    for title, style in (("word", ":"), (GRADIENT, "--")):
        level = [r["heldout_loss"] for r in results if r["title"] == title]
        if level:
            axes.axhline(float(np.mean(level)), linestyle=style, color="gray", label=title)
    axes.set(xscale="log", xlabel="forwards (for the gradient, forwards and backwards)", ylabel="held-out loss")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def picture_grid(
    bench: Workbench, results: Results, subjects: Sequence[Subject], titles: Sequence[str], path: Path
) -> None:
    """Draw rows of pictures: each subject's references, then what each method's word makes, of the first seed."""
    rows: list[tuple[str, Sequence[Image.Image]]] = []
    for subject in subjects:
        rows.append((f"{subject.name}: the references", subject.references()[:_COLUMNS]))
        for title in titles:
            found = [r for r in results if r["title"] == title and r["subject"] == subject.name]
            if found:
                first = min(found, key=lambda r: int(r["seed"]))
                rows.append((title, portraits(bench, subject, *_word(bench, first), _COLUMNS)))
    contact_sheet(rows).save(path)


def _word(bench: Workbench, result: Mapping[str, Any]) -> tuple[dict[str, NDArray[np.float32]], str]:
    if result["embedding"] is None:
        (encoder,) = bench.engine.info.encoders
        return {encoder.name: np.zeros((1, encoder.dim), np.float32)}, result["told"]["words"]
    tensors = result["embedding"].items()
    return {name: np.array(decode_tensor(Tensor.model_validate(value))) for name, value in tensors}, WORD
