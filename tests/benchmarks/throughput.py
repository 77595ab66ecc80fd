"""How fast it is, side by side in one run: `python -m tests.benchmarks.throughput [PART ...] [--json FILE]`.

engine    the engine in one process beside its limit, and beside the loop of the paper's reference code
forms     dtypes, layouts, int8 and compilation beside each other
http      1, 4 and 16 clients of a server in a process of its own, against the bare denoiser at its best batch size
growth    requests of 16 to 4,096 forwards
latency   a small request while another account keeps the device busy
client    processor time and memory of the client
memory    peak of scoring against a gradient step

Arms run in turn, round after round, so that a busy machine slows them alike; figures are medians over the rounds with
the least and the most, and shares are medians of the rounds' own shares.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from server_stub.allocator import keep_memory
from tests.benchmarks import (
    throughput_client,
    throughput_engine,
    throughput_http,
    throughput_latency,
    throughput_memory,
)
from tests.benchmarks.machine import machine
from tests.benchmarks.throughput_questions import Options
from tests.benchmarks.throughput_rounds import Table

__all__ = ["PARTS", "main"]

PARTS: dict[str, Callable[[Options], list[Table]]] = {
    "engine": throughput_engine.run,
    "forms": throughput_engine.forms,
    "http": throughput_http.run,
    "growth": throughput_http.growth,
    "latency": throughput_latency.run,
    "client": throughput_client.run,
    "memory": throughput_memory.run,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all)")
    parser.add_argument("--model", default="tiny", help="tiny, full-size, a diffusers directory or a hub id")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--micro-batch", type=int, help="by default the bare denoiser's best")
    parser.add_argument("--resolution", type=int, metavar="PIXELS")
    for flag in ("--channels-last", "--compile", "--cuda-graphs", "--int8"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--clients", type=int, nargs="+", default=(1, 4, 16), metavar="N", help="at once (1 4 16)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch's, here and in servers (all cores)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print tables, and write JSON where asked for."""
    parser = _parser()
    args = parser.parse_args(words)
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    keep_memory()  # as the server does
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    if args.threads:
        torch.set_num_threads(args.threads)
    settings: dict[str, Any] = asdict(options) | {"torch threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    for key, value in (machine() | settings).items():
        print(f"{key:>16}: {value}")
    told: list[dict[str, Any]] = []
    for part in args.parts or PARTS:
        for table in PARTS[part](options):
            print(table, flush=True)
            told.append({"part": part} | asdict(table))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "settings": settings, "tables": told}, indent=2) + "\n")


if __name__ == "__main__":
    main()
