"""Each idea of the search on and off: `python -m tests.benchmarks.ablation --out DIR [--arms ...]`.

Measured on the concepts that the search was developed on, never on those of the matrix, and resumable as it is. The gap
is the gradient's; the last column says by how much a setting changes the held-out loss, paired over subjects and seeds.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from tests.benchmarks.machine import machine
from tests.benchmarks.quality.__main__ import add_job, finish, job_of
from tests.benchmarks.quality.matrix import cells_of
from tests.benchmarks.quality.methods import METHODS, arm
from tests.benchmarks.quality.subjects import DEVELOPMENT
from tests.benchmarks.quality.tables import Results, gap_closed, gaps, summary

__all__ = ["ARMS", "main"]

ARMS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "noise of its own for every candidate": {"common_noise": False},
    "a bank kept for 4 generations": {"rotate_every": 4},
    "a bank kept for 16 generations": {"rotate_every": 16},
    "mirrored pairs": {"mirrored": True},
    "diagonal covariance": {"covariance": "diagonal"},
    "diagonal covariance, full space": {"covariance": "diagonal", "subspace": "full"},
    "random directions": {"subspace": "random"},
    "the full space": {"subspace": "full"},
    "axes of length 1": {"whiten": False},
    "16 dimensions": {"dimension": 16},
    "32 dimensions": {"dimension": 32},
    "64 dimensions": {"dimension": 64},
    "256 dimensions": {"dimension": 256},
    "sigma 0.5": {"sigma": 0.5},
    "sigma 1": {"sigma": 1.0},
    "sigma 2": {"sigma": 2.0},
    "sigma 8": {"sigma": 8.0},
    "4 samples": {"samples": 4},
    "16 samples": {"samples": 16},
    "8 candidates": {"popsize": 8},
    "20 candidates": {"popsize": 20},
    "uniform timesteps": {"timestep_sampling": "uniform"},
    "timesteps 200 to 800": {"t_min": 0.2, "t_max": 0.8},
    "timesteps 500 to 900": {"t_min": 0.5, "t_max": 0.9},
    "1 prompt a bank": {"prompts_at_once": 1},
    "all prompts in a bank": {"prompts_at_once": 12},
    "no phrases in the race": {"phrases": 0},
    "the winner not extended": {"extensions": 0},
    "8 starts": {"race": 8},
    "no race: attention alone": {"race": 1},
    "no race, no temperature": {"race": 1, "attention_temperature": 1.0},
    "the last mean as the answer": {"answer": "mean"},
    "means not averaged": {"averaging": 0.0},
    "the luckiest candidate as the answer": {"answer": "luckiest"},
}


def table(found: Results, arms: list[str]) -> str:
    """Return one row an arm."""
    told = summary(found)
    base = {(r["subject"], r["seed"]): r["heldout_loss"] for r in found if r["method"] == "defaults"}
    lines = ["| setting | gap closed from the plain word | held-out loss | change, paired |", "|---|---|---|---|"]
    for name in arms:
        title = next((r["title"] for r in found if r["method"] == name), None)
        if title is None:
            continue
        share, _, _ = gap_closed(gaps(found, title, "word"))
        mine = {(r["subject"], r["seed"]): r["heldout_loss"] for r in found if r["title"] == title}
        change = [mine[k] - base[k] for k in sorted(mine.keys() & base.keys())]
        error = np.std(change, ddof=1) / np.sqrt(len(change)) if len(change) > 1 else float("nan")
        lines.append(
            f"| {name} | {100 * share:.0f} % | {told[title]['loss'][0]:.4f} | {np.mean(change):+.4f} ± {error:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the arms and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job(parser)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--mark", type=int, default=5000)
    args = parser.parse_args()
    arms = list(dict.fromkeys(["defaults", *args.arms]))
    methods = [METHODS["word"], METHODS["start"], *(arm(name, **ARMS[name]) for name in arms)]
    job = job_of(args, pictures=False)
    subjects, seeds = DEVELOPMENT[: args.concepts], range(1, args.seeds + 1)
    cells = cells_of([METHODS["gradient"]], [5000], subjects, seeds) + cells_of(methods, [args.mark], subjects, seeds)
    found = finish(job, cells, args)
    print(json.dumps(machine() | {"weights": job.folder.name, "forwards": str(args.mark)}, indent=2))
    print(table(found, arms))


if __name__ == "__main__":
    main()
