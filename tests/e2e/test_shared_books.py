"""Several processes on one account's books, on SQLite and on PostgreSQL: never over, nothing twice, nothing lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from blackbox_ti.wire import Receipt
from server_stub import receipts as chain
from server_stub import spending
from server_stub.accounts import Accounts
from server_stub.database import Books, operations
from server_stub.receipts import Signer, verify
from server_stub.spending import Budget, Period
from tests.e2e.postgres import postgres
from tests.e2e.server_processes import fake_server, register
from tests.server_stub.served import loss_body

ROOT = Path(__file__).parents[2]
PROCESSES, WORKERS, KEYS, CAP = 4, 16, 24, 25


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of fresh books in each kind of database."""
    (tmp_path / "state").mkdir()
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'state' / 'books.sqlite'}"
        return
    with postgres() as address:
        yield address


def check_books(books: Books, account: int, public_key: str) -> list[Receipt]:
    """Check that charges, receipts and operations agree, and return the receipts."""
    signed = chain.page(books, account, after=0, limit=10_000).receipts
    spent = spending.spent(books, account)
    assert [receipt.sequence for receipt in signed] == list(range(1, len(signed) + 1))
    assert [receipt.previous for receipt in signed] == ["0" * 64, *(r.hash for r in signed)][: len(signed)]
    assert all(verify(receipt, public_key) for receipt in signed)
    assert len({receipt.idempotency_key for receipt in signed}) == len(signed)
    assert sum(receipt.forwards for receipt in signed) == spent.forwards
    with books.read() as connection:
        rows = connection.execute(sa.select(operations)).all()
    assert {row.key for row in rows} == {receipt.idempotency_key for receipt in signed}
    assert {row.state for row in rows} <= {"done"}
    return signed


def test_64_workers_in_4_processes_spend_exactly_what_they_may(url: str, tmp_path: Path) -> None:
    """Whatever the order, the cap is not passed, each key is charged once, and what is refused would not have fit."""
    folder, books = tmp_path / "state", Books(url)
    account = Accounts(books).ensure("ada")
    spending.set_budget(books, account, Period.TOTAL, Budget(max_forwards=CAP))
    signer = Signer.at(folder / "receipts.key")
    arguments = [str(WORKERS), str(KEYS)]
    command = [sys.executable, "-m", "tests.e2e.spend", str(folder), url]
    started = [
        subprocess.Popen([*command, str(seed), *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for seed in range(PROCESSES)
    ]
    tallies: list[dict[str, int]] = []
    for process in started:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        tallies.append(json.loads(out))
    signed = check_books(books, account, signer.public_key)
    assert sum(tally["settled"] for tally in tallies) == len(signed)
    assert sum(sum(tally.values()) for tally in tallies) == PROCESSES * WORKERS * KEYS
    spent = spending.spent(books, account).forwards
    assert sum(tally["refused"] for tally in tallies) > 0
    assert CAP - 2 <= spent <= CAP
    assert spending.left(books, account, "2026-01-01").max_forwards == CAP - spent
    books.close()


def test_two_servers_on_the_same_books_answer_a_key_once(url: str, tmp_path: Path) -> None:
    """The same keys sent to two server processes are computed and charged once, and answered alike by both."""
    settings: dict[str, Any] = {} if url.startswith("sqlite") else {"database_url": url}
    with ExitStack() as stack:
        servers = [stack.enter_context(fake_server(tmp_path, **settings)) for _ in range(2)]
        clients = [stack.enter_context(server.client()) for server in servers]
        bodies = [loss_body(register(client)) for client in clients]
        assert bodies[0] == bodies[1]
        for index in range(6):
            first, second = (_ask(client, bodies[0], f"key-{index}") for client in clients)
            assert first.content == second.content
            assert second.headers["idempotent-replayed"] == "true"
        assert [client.get("/v1/usage").json()["forwards"] for client in clients] == [36, 36]
        public_key = clients[0].get("/v1/model").json()["receipt_public_key"]
    books = Books(url)
    assert len(check_books(books, Accounts(books).local().account_id, public_key)) == 6
    books.close()


def _ask(client: httpx.Client, body: Any, key: str) -> httpx.Response:
    reply = client.post("/v1/loss", json=body, headers={"Idempotency-Key": key})
    assert reply.status_code == 200, reply.text
    return reply


def test_without_its_database_the_server_refuses_and_comes_back(tmp_path: Path) -> None:
    """While the database is unusable every route that needs it is 503 with Retry-After; afterwards it serves again."""
    (tmp_path / "state").mkdir()
    with fake_server(tmp_path) as server, server.client() as client:
        body = loss_body(register(client))
        books = Books(f"sqlite:///{tmp_path / 'state' / 'books.sqlite'}")
        rename(books, "credentials", "away")
        for reply in (client.get("/v1/usage"), client.post("/v1/loss", json=body, headers={"Idempotency-Key": "k"})):
            assert (reply.status_code, reply.json()["code"], reply.json()["retryable"]) == (503, "overloaded", True)
            assert int(reply.headers["retry-after"]) >= 1
        rename(books, "away", "credentials")
        _ask(client, body, "k")
        books.close()


def rename(books: Books, before: str, after: str) -> None:
    """Rename a table."""
    with books.write() as connection:
        connection.execute(sa.text(f"ALTER TABLE {before} RENAME TO {after}"))
