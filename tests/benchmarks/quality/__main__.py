"""Measure the search: `python -m tests.benchmarks.quality --out DIR [--subset] [--methods ...] [--marks ...]`.

Every cell is written as it is done; the same command again goes on where it stopped, and prints the tables of all that
is there. Results made with other weights lie in a folder of their own.

    python -m tests.benchmarks.quality --out DIR --sweep             # learning rates, on concepts not in the matrix
    python -m tests.benchmarks.quality --out DIR                     # everything at 5,000
    python -m tests.benchmarks.quality --out DIR --marks 20000 --methods ours
    python -m tests.benchmarks.quality --out DIR --subset --marks 20000,90000
    python -m tests.benchmarks.quality --out DIR --methods start gradient ours "ours, 2 digits" "ours, ranks alone"
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.benchmarks.machine import machine
from tests.benchmarks.quality import gradient, zeroth_order
from tests.benchmarks.quality.matrix import Cell, Job, cells_of, results, run_cells
from tests.benchmarks.quality.methods import METHODS, REPLY_MODES, Method, gradient_at, zeroth_order_at
from tests.benchmarks.quality.plots import picture_grid, plot_curves
from tests.benchmarks.quality.subjects import DEVELOPMENT, MATRIX, SUBSET, Subject
from tests.benchmarks.quality.tables import Results, failures_table, main_table, shares_table, speed_table, summary
from tests.benchmarks.quality.workbench import Workbench, weights_id

__all__ = ["add_job", "finish", "job_of", "main"]

_GRID = ("oracle words", "word", "gradient", "paper, pca", "ours")
_LAST = {
    "gradient": 20_000,
    "gradient, from the word": 20_000,
    "zeroth-order": 90_000,
    "ours": 20_000,
}  # marks worth measuring


def add_job(parser: argparse.ArgumentParser) -> None:
    """Add what every benchmark over cells takes."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where cells, tables and plots go")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the cells (default 1)")
    parser.add_argument("--threads", type=int, help="torch's threads in each process")
    parser.add_argument("--concepts", type=int, metavar="N", help="only the first N subjects")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 1 to N (default 3)")
    parser.add_argument("--redo", nargs="+", default=[], metavar="METHOD", help="forget these methods' cells first")
    parser.add_argument("--report", action="store_true", help="run nothing; print what is there")


def job_of(args: argparse.Namespace, *, pictures: bool) -> Job:
    """Return the job of parsed arguments; results of other weights are kept apart."""
    return Job(args.out / weights_id(), pictures=pictures, processes=args.jobs, threads=args.threads)


def finish(job: Job, cells: list[Cell], args: argparse.Namespace) -> Results:
    """Run what is not done yet, saying how it goes on stderr, and return every result."""
    for cell in cells:
        if cell.method.name in args.redo:
            (job.folder / cell.file(pictures=job.pictures)).unlink(missing_ok=True)
    started, done = time.monotonic(), 0
    if not args.report:
        for cell, result in run_cells(job, cells):
            done += 1
            print(
                f"{time.monotonic() - started:7.0f} s  {cell.title:<24} {cell.subject.name:<28} seed {cell.seed}  "
                f"loss {result['heldout_loss']:.4f}  {result['seconds']:.0f} + {result['measure_seconds']:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    return results(job, cells)


def _sweep(args: argparse.Namespace) -> None:
    """Choose the rivals' learning rates on two concepts that the matrix does not hold."""
    rivals = [gradient_at(r, f"gradient, rate {r:g}") for r in gradient.LEARNING_RATES]
    rivals += [zeroth_order_at(r, f"zeroth-order, rate {r:g}") for r in zeroth_order.LEARNING_RATES]
    methods = [METHODS["word"], METHODS["start"], *rivals]
    job = job_of(args, pictures=False)
    cells = cells_of(methods, [5000], DEVELOPMENT[: args.concepts or 2], range(1, args.seeds + 1))
    found = finish(job, cells, args)
    print(json.dumps({title: row["loss"] for title, row in summary(found).items()}, indent=2))


def _subjects(args: argparse.Namespace) -> list[Subject]:
    chosen = [s for s in MATRIX if not args.subset or s.name in SUBSET]
    return chosen[: args.concepts]


def _worth(cell: Cell) -> bool:
    """Whether a mark says anything new of a method."""
    return cell.mark <= _LAST.get(cell.method.name, cell.mark)


def _tell(found: Results, folder: Path, args: argparse.Namespace) -> None:
    facts = machine() | {"weights": folder.name, "seeds": f"1 to {args.seeds}"}
    print("\n".join(f"{key:>18}: {value}" for key, value in facts.items()), end="\n\n")
    print(main_table(found), end="\n\n")
    print(shares_table(found), end="\n\n")
    print(failures_table(found), end="\n\n")
    print(speed_table(found))
    told = {"machine": facts, "summary": summary(found)}
    (folder / f"{args.name}.summary").write_text(json.dumps(told, indent=2) + "\n")


def main() -> None:
    """Run the matrix and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job(parser)
    parser.add_argument("--sweep", action="store_true", help="the rivals' learning rates, and nothing else")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS | REPLY_MODES), default=list(METHODS))
    parser.add_argument("--marks", type=lambda s: [int(m) for m in s.split(",")], default=[5000])
    parser.add_argument("--subset", action="store_true", help=f"only {', '.join(SUBSET)}")
    parser.add_argument("--no-pictures", action="store_true", help="losses alone")
    parser.add_argument("--name", default="matrix", help="what the tables and plots are called")
    args = parser.parse_args()
    if args.sweep:
        _sweep(args)
        return
    methods: list[Method] = [(METHODS | REPLY_MODES)[name] for name in args.methods]
    job = job_of(args, pictures=not args.no_pictures)
    subjects = _subjects(args)
    cells = [c for c in cells_of(methods, args.marks, subjects, range(1, args.seeds + 1)) if _worth(c)]
    found = finish(job, cells, args)
    if not found:
        return
    _tell(found, job.folder, args)
    plot_curves(found, job.folder / f"{args.name}.png")
    if job.pictures:
        last = {r["method"]: r["title"] for r in found}
        shown = [s for s in subjects if s.name in SUBSET] or subjects[:4]
        titles = [last[m] for m in _GRID if m in last]
        picture_grid(Workbench(args.threads), found, shown, titles, job.folder / f"{args.name}-pictures.png")


if __name__ == "__main__":
    main()
