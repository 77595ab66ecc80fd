"""Peak memory of scoring against a gradient step of the same model and batch, each in a process of its own.

The gradient step is textual inversion's: weights frozen, the embedding's gradient by back-propagation, one AdamW step.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from server_stub.diffusers_engine import DiffusersEngine
from server_stub.engine import LossJob, Slice
from server_stub.warm_up import share
from tests.benchmarks.machine import memory, reset_peak
from tests.benchmarks.throughput_questions import WORD, Options, job
from tests.benchmarks.throughput_rounds import Table

__all__ = ["run"]

_DTYPES = ("float32", "bfloat16", "float16")
_BATCH = {"tiny": 16, "full-size": 4}
_SIDE = {"full-size": 256}


class _Peak:
    """The process's memory, or the GPU's, in MB, from now on."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            reset_peak()
        self.before = self._read("VmRSS")

    def _read(self, name: str) -> float:
        if self._cuda:
            return (torch.cuda.memory_allocated() if name == "VmRSS" else torch.cuda.max_memory_allocated()) / 1e6
        return memory(name) / 1e6

    @property
    def now(self) -> float:
        """The highest so far."""
        return self._read("VmHWM")


def _score(engine: DiffusersEngine, asked: LossJob) -> None:
    work = engine.prepare(asked)
    engine.score([Slice(work, 0, engine.micro_batch)])
    engine.result(work)


def _step(engine: DiffusersEngine, asked: LossJob) -> None:
    """One gradient step of the first candidate's embedding on as many samples as a micro-batch has rows."""
    family, size = engine.family, engine.micro_batch
    for part in engine.pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(requires_grad=False)
    inputs = engine.prepare(asked).inputs(0, size)
    learned = [torch.nn.Parameter(torch.from_numpy(rows[:1].copy())) for rows in asked.embeddings.values()]
    optimizer = torch.optim.AdamW(learned, lr=5e-3)
    texts = {
        e.name: e.tokenize([e.substitute(asked.prompts[0], WORD, 1)] * size).to(engine.device) for e in family.encoders
    }
    vectors = {
        e.name: row.expand(size, -1, -1).to(engine.device) for e, row in zip(family.encoders, learned, strict=True)
    }
    with family.holding(vectors):
        conditioning = family.encode_text(texts)
    noisy, target, timestep = (each.clone() for each in (inputs.noisy, inputs.target, inputs.timestep))
    loss = (family.denoise(noisy, timestep, conditioning).float() - target).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert all(row.grad is not None and bool(row.grad.abs().sum() > 0) for row in learned)


_WORK: dict[str, Callable[[DiffusersEngine, LossJob], None]] = {"scoring": _score, "gradient step": _step}


def _measure(options: Options, work: str) -> dict[str, float]:
    """Return MB before the work and at its peak."""
    engine = options.engine()
    share(engine)  # what a server keeps of a request counts as well
    asked = job(engine, candidates=2, samples=engine.micro_batch)
    peak = _Peak(engine.device)
    _WORK[work](engine, asked)
    return {"before MB": peak.before, "peak MB": peak.now, "added MB": peak.now - peak.before}


def run(options: Options) -> list[Table]:
    """Measure each dtype both ways, each in a process of its own."""
    rows: dict[str, dict[str, Any]] = {}
    kind = options.model if options.model in _BATCH else "tiny"
    form = asdict(options) | {
        "micro_batch": options.micro_batch or _BATCH[kind],
        "resolution": options.resolution or _SIDE.get(kind),
    }
    for dtype in _DTYPES:
        for work in _WORK:
            given = json.dumps({"options": form | {"dtype": dtype}, "work": work})
            command = [sys.executable, "-m", "tests.benchmarks.throughput_memory", given]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows[f"{dtype}, {work}"] = json.loads(done.stdout.splitlines()[-1])
        least, most = (rows[f"{dtype}, {work}"]["added MB"] for work in _WORK)
        rows[f"{dtype}, gradient step"]["x scoring"] = most / least
    title = f"Memory, batch {form['micro_batch']}, {form['resolution'] or 'own'} pixels"
    return [Table(title, rows, ["before: the model and its libraries; added: what the work took on top, at its peak"])]


if __name__ == "__main__":
    asked_for = json.loads(sys.argv[1])
    print(json.dumps(_measure(Options(**asked_for["options"]), asked_for["work"])))
