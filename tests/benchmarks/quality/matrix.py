"""Cells of (method, mark, subject, seed): each written at once when it is done, none done twice."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.quality.measures import StyleNamer, measure
from tests.benchmarks.quality.methods import Method
from tests.benchmarks.quality.subjects import Subject
from tests.benchmarks.quality.workbench import PeakMemory, Workbench

__all__ = ["Cell", "Job", "cells_of", "results", "run_cells"]

VERSION = 1


@dataclass(frozen=True)
class Cell:
    """One learned word to measure."""

    method: Method = field(repr=False)
    mark: int
    subject: Subject = field(repr=False)
    seed: int

    @property
    def title(self) -> str:
        """Method and mark as the tables print them."""
        return f"{self.method.name} @ {self.mark:,}" if self.method.searches else self.method.name

    def file(self, *, pictures: bool) -> str:
        """The name of the cell's result; whatever decides the outcome is hashed into it."""
        decides = [VERSION, self.method.config, self.subject.digest, pictures]
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:10]
        method = "".join(c if c.isalnum() else "-" for c in self.method.name)
        return f"{method}-{self.mark}-{self.subject.name}-{self.seed}-{digest}.json"


Work = Callable[[Cell], dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """Where results go, whether pictures are made, and how many processes share the work."""

    folder: Path
    pictures: bool = True
    processes: int = 1
    threads: int | None = None


def cells_of(
    methods: Sequence[Method], marks: Sequence[int], subjects: Sequence[Subject], seeds: Sequence[int]
) -> list[Cell]:
    """Return the cells of a matrix; what has no search has one mark, and words are only spoken where there are any."""
    return [
        Cell(method, mark, subject, seed)
        for mark in marks
        for seed in seeds
        for subject in subjects
        for method in methods
        if (method.searches or mark == marks[0]) and (method.name != "oracle words" or subject.words)
    ]


def results(job: Job, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return what is known of the cells already."""
    paths = [job.folder / cell.file(pictures=job.pictures) for cell in cells]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def run_cells(job: Job, cells: Sequence[Cell], work: Work | None = None) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Yield each cell that was not done yet, with its result, as it is done.

    `work` does a cell in this process; without it models are loaded to do them.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    todo = [cell for cell in cells if not (job.folder / cell.file(pictures=job.pictures)).exists()]
    if not todo:
        return
    if job.processes == 1 or work:
        work = work or _Worker(job).run
        yield from ((cell, _kept(job, cell, work)) for cell in todo)
        return
    # Cells hold functions, which do not travel: the workers are forked, before any of them loads a model.
    context = multiprocessing.get_context("fork")
    _SHARED[:] = todo
    with context.Pool(job.processes, initializer=_begin, initargs=(job,)) as pool:
        for index, result in pool.imap_unordered(_run_shared, range(len(todo))):
            yield todo[index], result


_SHARED: list[Cell] = []
_WORKER: list[_Worker] = []


def _begin(job: Job) -> None:
    _WORKER[:] = [_Worker(job)]


def _run_shared(index: int) -> tuple[int, dict[str, Any]]:
    worker = _WORKER[0]
    return index, _kept(worker.job, _SHARED[index], worker.run)


def _kept(job: Job, cell: Cell, work: Work) -> dict[str, Any]:
    """Do a cell and write its result in one step, so that a killed run leaves no half of one."""
    result = work(cell)
    path = job.folder / cell.file(pictures=job.pictures)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(result))
    partial.replace(path)
    return result


class _Worker:
    """One process's model and judge."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._bench = Workbench(job.threads)
        self._styles = StyleNamer(self._bench)

    def run(self, cell: Cell) -> dict[str, Any]:
        """Learn and measure."""
        memory = PeakMemory()
        memory.reset()
        learned = cell.method.run(self._bench, cell.subject, cell.seed, cell.mark)
        peak = memory.read()
        started = time.perf_counter()
        result: dict[str, Any] = {
            "method": cell.method.name,
            "title": cell.title,
            "mark": cell.mark,
            "subject": cell.subject.name,
            "kind": cell.subject.kind,
            "seed": cell.seed,
            "forwards": learned.forwards,
            "seconds": learned.seconds,
            "peak_memory": peak,
            **measure(self._bench, self._styles, cell.subject, learned, pictures=self.job.pictures),
            "told": learned.told,
        }
        return result | {"measure_seconds": time.perf_counter() - started}
