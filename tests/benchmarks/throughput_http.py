"""Forwards a second through HTTP, a server as its own process, against the bare denoiser at the best batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tests.benchmarks.throughput_engine import bare, best_batch, loop
from tests.benchmarks.throughput_questions import CANDIDATES, SAMPLES, Options, client
from tests.benchmarks.throughput_rounds import Arm, Table, rate_table, rates_of
from tests.benchmarks.throughput_server import served

__all__ = ["growth", "run"]

_GROWTH = ((2, 8), (8, 8), (32, 8), (128, 8), (512, 8))  # as many texts a forward in each
_LEAST_FORWARDS = 1024
_FULL_SIZE = (2, 8)


def _asked_by(clients: Sequence[Callable[[int, int], int]], pool: ThreadPoolExecutor, size: tuple[int, int]) -> Arm:
    """Return an arm in which each client asks a generation, all at once."""
    return lambda: sum(pool.map(lambda ask: ask(*size), clients))


def run(options: Options) -> list[Table]:
    """Measure each number of clients at once; on a full-size model one, and generations of 2 x 8."""
    engine = options.engine()
    size = options.micro_batch or best_batch(engine)[0]
    large = options.model == "full-size"
    generation = _FULL_SIZE if large else (CANDIDATES, SAMPLES)
    engine.micro_batch = size
    engine.warm_up()
    with served(replace(options, micro_batch=size)) as (url, pid), ThreadPoolExecutor(max(options.clients)) as pool:
        clients = [client(url) for _ in range(1 if large else max(options.clients))]
        rows = generation[0] * generation[1]
        arms: dict[str, Arm] = {"bare": bare(engine, rows, size, engine.denoise if options.compile else None)}
        for count in (1,) if large else options.clients:
            arms[f"{count} client{'s' * (count > 1)}"] = _asked_by(clients[:count], pool, generation)
        arms["loop, 5 at a time"] = loop(engine, 5 if large else rows // 4, 5)
        rates = rates_of(arms, options.rounds, reference="bare", pids=[pid])
    notes = [f"micro-batch {size}; {generation[0]} candidates x {generation[1]} samples a request"]
    return [rate_table("Through HTTP", rates, reference="bare", notes=notes)]


def growth(options: Options) -> list[Table]:
    """Measure requests of 16 to 4,096 forwards, asked by one client and, to hide what a request costs, by four."""
    size = options.micro_batch or best_batch(options.engine())[0]
    tables = []
    with served(replace(options, micro_batch=size)) as (url, pid), ThreadPoolExecutor(4) as pool:
        clients = [client(url) for _ in range(4)]
        for count in (1, 4):
            arms = {f"{b} x {n} = {b * n}": _repeated(clients[:count], pool, b, n) for b, n in _GROWTH}
            rates = rates_of(arms, options.rounds, reference="512 x 8 = 4096", pids=[pid])
            title = f"Requests that grow, {count} client{'s' * (count > 1)}"
            tables.append(rate_table(title, rates, reference="512 x 8 = 4096", notes=[f"micro-batch {size}"]))
    return tables


def _repeated(clients: Sequence[Callable[[int, int], int]], pool: ThreadPoolExecutor, b: int, n: int) -> Arm:
    """Return an arm in which the clients ask for b x n again and again, as often as makes a measurable time."""
    times = max(1, _LEAST_FORWARDS // (b * n * len(clients)))
    return lambda: sum(pool.map(lambda ask: sum(ask(b, n) for _ in range(times)), clients))
