"""Spend on one account from a process of its own: `python -m tests.e2e.spend FOLDER URL SEED WORKERS KEYS`.

Every worker asks for every key, in an order of its own; it prints how many operations it settled and was refused.
"""

from __future__ import annotations

import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server_stub.idempotency import Conflict, ConflictError, Replay
from server_stub.spending import Amount, BudgetSpentError
from tests.server_stub.books import OneServer, order, reply

__all__ = ["main"]


def main(folder: str, url: str, seed: int, workers: int, keys: int) -> dict[str, int]:
    """Return the tally of this process."""
    server = OneServer(Path(folder), time.time, url=url)
    account = server.accounts.ensure("ada")
    tally = {"settled": 0, "refused": 0, "replayed": 0, "conflicts": 0, "released": 0}

    def work(worker: int) -> list[str]:
        chance = random.Random(seed * 1000 + worker)
        wanted = [f"key-{index}" for index in range(keys)]
        chance.shuffle(wanted)
        return [spend(key, chance) for key in wanted]

    def spend(key: str, chance: random.Random) -> str:
        try:
            held = server.operations.begin(order(account, key), Amount(1 + len(key) % 3))
        except ConflictError as error:
            return "conflicts" if error.conflict is Conflict.IN_FLIGHT else "lost"
        except BudgetSpentError:
            return "refused"
        if isinstance(held, Replay):
            return "replayed"
        if chance.random() < 0.2:
            server.operations.release(held)
            return "released"
        server.operations.settle(held, held.amount, reply)
        return "settled"

    with ThreadPoolExecutor(workers) as pool:
        for outcomes in pool.map(work, range(workers)):
            for outcome in outcomes:
                tally[outcome] += 1
    server.die()
    return tally


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))))
