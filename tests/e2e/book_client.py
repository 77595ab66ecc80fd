"""Clients for the tests of the books: calls of 6 forwards, booked in a folder, one after another or side by side.

As a process, `python -m tests.e2e.book_client FOLDER URL CALLS CAP NAME THREADS`, threads share the calls under keys
that begin with NAME, those refused by the cap left out, and the number of forwards charged is printed.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from blackbox_ti.booked import BookedEndpoint
from blackbox_ti.budget import Caps
from blackbox_ti.errors import BudgetSpentError
from blackbox_ti.http_endpoint import HttpEndpoint
from blackbox_ti.ledger import Ledger, RunIdentity
from blackbox_ti.wire import LossReply
from tests.fake_host import loss_request, png

__all__ = ["FORWARDS", "digest_of", "endpoint_at", "run_calls"]

FORWARDS = 6


def endpoint_at(url: str, ledger: Ledger) -> HttpEndpoint:
    """Return an endpoint that waits no longer than a test should."""
    return HttpEndpoint(
        url,
        on_attempt=ledger.record_attempt,
        rng=np.random.default_rng(0),
        sleep=lambda seconds: time.sleep(min(seconds, 0.05)),
    )


def ask(endpoint: BookedEndpoint, concept: str, n: int, key: str | None = None) -> LossReply:
    """Make call number `n`: two candidates on three samples."""
    embeddings = np.random.default_rng(n).normal(size=(2, 1, 8)).astype(np.float32)
    return endpoint.losses(loss_request(concept, embeddings, samples=3, seed=n), label=f"search/{n // 10}", key=key)


def digest_of(replies: list[LossReply]) -> str:
    """Return the SHA-256 of all losses."""
    losses = [reply.losses.data for reply in replies if reply.losses is not None]
    assert len(losses) == len(replies)
    return hashlib.sha256("".join(losses).encode()).hexdigest()


def run_calls(folder: Path, url: str, calls: int, begun: Callable[[], None] = lambda: None) -> str:
    """Make the calls in order and return the digest of their losses; `begun` is called before the first."""
    with Ledger(folder / "ledger.sqlite") as ledger:
        endpoint = BookedEndpoint(endpoint_at(url, ledger), ledger)
        ledger.begin(RunIdentity(endpoint="e2e", settings={"calls": calls}, pictures=[]), Caps())
        endpoint.describe()
        concept = endpoint.register_concept([png()])
        begun()
        digest = digest_of([ask(endpoint, concept, n) for n in range(calls)])
        endpoint.close()
    return digest


def run_threads(folder: Path, url: str, calls: int, *, cap: int, name: str, threads: int) -> int:
    """Make the calls side by side under a cap and return the forwards charged to this process."""
    with Ledger(folder / "ledger.sqlite") as ledger:
        endpoint = BookedEndpoint(endpoint_at(url, ledger), ledger)
        ledger.begin(RunIdentity(endpoint="e2e", settings={}, pictures=[]), Caps(forwards=cap))
        concept = endpoint.register_concept([png()])
        endpoint.describe()

        def one(n: int) -> int:
            try:
                return ask(endpoint, concept, n, key=f"{name}/{n}").charge.forwards
            except BudgetSpentError:
                return 0

        with ThreadPoolExecutor(threads) as pool:
            charged = sum(pool.map(one, range(calls)))
        endpoint.close()
    return charged


if __name__ == "__main__":
    where, address, number, limit, names, workers = sys.argv[1:]
    print(run_threads(Path(where), address, int(number), cap=int(limit), name=names, threads=int(workers)))
