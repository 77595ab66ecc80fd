"""The server as a real process over real sockets: starting, stopping, dying, and what is charged for it."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from blackbox_ti.wire import LossReply, Receipt
from server_stub.accounts import Accounts
from server_stub.database import Books
from server_stub.receipts import verify
from tests.e2e.server_processes import ServerProcess, fake_server, register, serving
from tests.server_stub.served import loss_body


def ask(client: httpx.Client, body: Any, key: str) -> httpx.Response:
    """Send a loss request."""
    return client.post("/v1/loss", json=body, headers={"Idempotency-Key": key})


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    for _ in range(10_000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("the condition never came to hold")


def test_one_line_on_stdout_and_exit_code_0_on_sigterm(tmp_path: Path) -> None:
    """A started server prints its address alone, answers there, and ends cleanly when asked to."""
    with fake_server(tmp_path) as server:
        with server.client() as client:
            assert client.get("/readyz").status_code == 200
            assert client.get("/v1/model").json()["model"] == "fake"
        assert server.terminate() == 0
        assert server.close() == ""


def test_a_drain_finishes_what_is_under_way_and_refuses_what_is_new(tmp_path: Path) -> None:
    """After SIGTERM the running request gets its reply, new ones get 503 not_ready with Retry-After, then exit 0."""
    held = tmp_path / "held"
    with fake_server(tmp_path, held=str(held)) as server, server.client() as client:
        body = loss_body(register(client))
        replies: list[httpx.Response] = []
        worker = threading.Thread(target=lambda: replies.append(ask(client, body, "k")))
        worker.start()
        eventually(held.exists)
        server.process.terminate()
        with server.client() as other:
            eventually(lambda: other.get("/readyz").status_code == 503)
            refused = ask(other, body, "new")
        held.unlink()
        worker.join()
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert int(refused.headers["retry-after"]) >= 1
        assert replies[0].status_code == 200
        assert server.process.wait(120) == 0


def test_work_whose_client_went_away_is_kept_and_charged_once(tmp_path: Path) -> None:
    """A client that hangs up during its computation gets the stored reply on retry, charged once."""
    held = tmp_path / "held"
    with fake_server(tmp_path, held=str(held)) as server, server.client() as client:
        body = json.dumps(loss_body(register(client)))
        head = "POST /v1/loss HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n"
        address = httpx.URL(server.url)
        with socket.create_connection((address.host, address.port or 80)) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            eventually(held.exists)
        held.unlink()
        eventually(lambda: client.get("/v1/usage").json()["receipts"] == 1)
        headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
        again = client.post("/v1/loss", content=body, headers=headers)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
        assert client.get("/v1/usage").json()["forwards"] == 6


def settled(tmp_path: Path, body: Any, keys: list[str], **settings: Any) -> list[LossReply]:
    """Start a server once more, ask every key until it is answered, and return the replies."""
    replies = []
    with fake_server(tmp_path, **settings) as server, server.client() as client:
        for key in keys:
            reply = ask(client, body, key)
            assert reply.status_code == 200, reply.text
            replies.append(LossReply.model_validate_json(reply.content))
        usage = client.get("/v1/usage").json()
        receipts = [Receipt.model_validate(r) for r in client.get("/v1/receipts").json()["receipts"]]
        public_key = client.get("/v1/model").json()["receipt_public_key"]
    assert (usage["forwards"], usage["receipts"]) == (6 * len(keys), len(keys))
    assert [r.sequence for r in receipts] == list(range(1, len(keys) + 1))
    assert [r.previous for r in receipts] == ["0" * 64, *(r.hash for r in receipts[:-1])]
    assert sorted(r.idempotency_key for r in receipts) == sorted(keys)
    assert all(verify(receipt, public_key) for receipt in receipts)
    return replies


def test_a_server_killed_at_work_leaves_no_debt_and_no_double_charge(tmp_path: Path) -> None:
    """After kill -9 during a computation the next server releases the reservation; the retry is charged once."""
    with fake_server(tmp_path) as server, server.client() as client:
        body = loss_body(register(client))
    held = tmp_path / "held"
    with fake_server(tmp_path, held=str(held)) as server:
        worker = threading.Thread(target=_swallow, args=(server, body, "k"))
        worker.start()
        eventually(held.exists)
        server.kill()
        worker.join()
    settled(tmp_path, body, ["k"])


def _swallow(server: ServerProcess, body: Any, *keys: str) -> None:
    """Ask for every key, until the server dies."""
    try:
        with server.client() as client:
            for key in keys:
                ask(client, body, key)
    except httpx.TransportError:
        return


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_charges_each_operation_once(tmp_path: Path, kills: int) -> None:
    """Whenever the server dies, every key ends answered once, receipted once, and with the same losses."""
    moments = random.Random(kills)
    keys = [f"key-{index}" for index in range(12)]
    with fake_server(tmp_path) as server, server.client() as client:
        body = loss_body(register(client))
    for _ in range(kills):
        with fake_server(tmp_path, seconds=0.02) as server:
            worker = threading.Thread(target=_swallow, args=(server, body, *keys))
            worker.start()
            time.sleep(moments.uniform(0, 0.6))
            server.kill()
            worker.join()
    replies = settled(tmp_path, body, keys)
    assert {reply.losses.data for reply in replies if reply.losses} == {replies[0].losses and replies[0].losses.data}


def test_keys_made_and_revoked_on_the_shell_count_at_once(tmp_path: Path) -> None:
    """With the first key strangers are refused; a revoked key stops working; neither needs a restart."""
    with fake_server(tmp_path) as server, server.client() as client:
        assert client.get("/v1/model").status_code == 200
        accounts = Accounts(Books(f"sqlite:///{tmp_path}/state/books.sqlite"))
        identifier, key = accounts.create_key("ada")
        assert client.get("/v1/model").status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        assert client.get("/v1/model", headers=headers).status_code == 200
        accounts.revoke(identifier)
        assert client.get("/v1/model", headers=headers).status_code == 401
        assert client.get("/v1/model").status_code == 401


def test_the_log_holds_ids_but_no_secret(tmp_path: Path) -> None:
    """Keys, embeddings, pictures, prompts and tokens sent to the server are found nowhere in its log."""
    with fake_server(tmp_path, log_level="debug") as server, server.client() as client:
        accounts = Accounts(Books(f"sqlite:///{tmp_path}/state/books.sqlite"))
        _, key = accounts.create_key("ada")
        client.headers["Authorization"] = f"Bearer {key}"
        body = loss_body(register(client), prompts=["a secretprompt of <sks>"], placeholder_token="<sks>")
        reply = ask(client, body, "secretidempotency")
        assert reply.status_code == 200
        client.post("/v1/loss", content=b'{"secretfield": "secretvalue"', headers={"Idempotency-Key": "x"})
        client.get(
            "/secretpath", params={"secretquery": "1"}, headers={"X-Secretheader": "1", "User-Agent": "secretua"}
        )
        client.request("SECRETMETHOD", "/v1/model")
        server.terminate()
        log = server.log.read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert reply.headers["x-request-id"] in {line.get("request_id") for line in lines}
    planted = (key, key[-20:], "secret", "SECRET", "<sks>", body["embeddings"]["text"]["data"][:24], "iVBOR")
    assert [word for word in planted if word in log] == []


def test_a_server_that_strangers_could_reach_does_not_start_without_keys(tmp_path: Path) -> None:
    """On an address that is not loopback a start without keys ends with exit code 2 and advice, and no address."""
    with fake_server(tmp_path, host="0.0.0.0") as server:
        assert server.process.wait(120) == 2
        assert (server.url, "keys create" in server.log.read_text()) == ("", True)


def test_behind_a_proxy_everyone_needs_a_key(tmp_path: Path) -> None:
    """Behind a proxy that ends TLS a server with keys starts, and trusts nobody for coming from loopback."""
    (tmp_path / "state").mkdir()
    Accounts(Books(f"sqlite:///{tmp_path}/state/books.sqlite")).create_key("ada")
    with fake_server(tmp_path, behind_tls_proxy=True) as server, server.client() as client:
        assert client.get("/v1/model").status_code == 401


def test_a_port_in_use_is_said_plainly(tmp_path: Path) -> None:
    """A taken port ends the start with exit code 2 and the port's number."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with fake_server(tmp_path, port=port) as server:
            assert server.process.wait(120) == 2
            assert str(port) in server.log.read_text()


def raw(url: str, sent: bytes) -> bytes:
    """Send bytes on a bare connection and return all that comes back."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 80), timeout=30) as connection:
        connection.sendall(sent)
        chunks = []
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65_536):
                chunks.append(chunk)
    return b"".join(chunks)


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_not_http_gets_a_problem_too(tmp_path: Path, sent: bytes) -> None:
    """Bytes that are no request are answered 400 with problem details, and the connection is closed."""
    with fake_server(tmp_path) as server:
        reply = raw(server.url, sent)
        assert reply.startswith(b"HTTP/1.1 400 ")
        assert b"application/problem+json" in reply
        with server.client() as client:
            assert client.get("/healthz").status_code == 200


def test_endless_headers_end_the_connection(tmp_path: Path) -> None:
    """A first line that never ends is cut off, and others are served on."""
    with fake_server(tmp_path) as server:
        assert b"200" not in raw(server.url, b"GET /" + b"x" * 1_000_000)[:20]
        with server.client() as client:
            assert client.get("/healthz").status_code == 200


def test_silent_and_slow_connections_are_closed(tmp_path: Path) -> None:
    """A connection that sends no headers is closed; a body that stalls is answered 408."""
    with fake_server(tmp_path, header_timeout=0.3, body_timeout=0.3) as server:
        assert raw(server.url, b"GET /v1/mo") == b""
        head = "POST /v1/loss HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        stalled = raw(server.url, f"{head}Idempotency-Key: k\r\nContent-Length: 99\r\n\r\n{{".encode())
        assert stalled.startswith(b"HTTP/1.1 408 ")


@pytest.mark.slow
def test_the_command_line_serves_a_diffusers_folder(tmp_path: Path) -> None:
    """`serve --model DIR` loads a real model, scores a concept with it, and ends on SIGTERM."""
    from tests.server_stub import tiny_models

    model = tiny_models.save_stable_diffusion(tmp_path / "model")
    script = (
        "import argparse, sys; from server_stub.cli import add_parsers; p = argparse.ArgumentParser();"
        "add_parsers(p.add_subparsers()); a = p.parse_args(); sys.exit(a.run(a))"
    )
    command = [sys.executable, "-c", script, "serve", "--port", "0", "--model", str(model), "--device", "cpu"]
    with serving(command, tmp_path / "log") as server, server.client() as client:
        card = client.get("/v1/model").json()
        assert card["limits"]["max_norm"] > card["encoders"][0]["norm_mean"]
        assert client.get("/readyz").status_code == 200
        assert server.terminate() == 0
