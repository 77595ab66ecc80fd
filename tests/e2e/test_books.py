"""The client's books against a real server: faults on the way, death of either side, many at once."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from blackbox_ti.audit import add_parser, audit, fetch_host_book
from blackbox_ti.audit_report import AuditReport
from blackbox_ti.http_endpoint import HttpEndpoint
from blackbox_ti.ledger import Ledger
from tests.e2e.book_client import FORWARDS, run_calls
from tests.e2e.fault_proxy import FAULTS, FaultProxy
from tests.e2e.server_processes import ServerProcess, fake_server

FAST = {"requests_per_second": 1e6, "requests_burst": 10**6, "retry_after": 0.1, "lease": 1.0}


@contextmanager
def server_in(folder: Path, **settings: object) -> Iterator[ServerProcess]:
    """Yield a server that limits no rate, its state in `folder`."""
    folder.mkdir(exist_ok=True)
    with fake_server(folder, **FAST, **settings) as server:
        assert server.url
        yield server


def new(folder: Path) -> Path:
    """Return a folder, made."""
    folder.mkdir()
    return folder


def charged(url: str) -> int:
    """Return the forwards the host has charged."""
    endpoint = HttpEndpoint(url)
    try:
        return endpoint.usage().forwards
    finally:
        endpoint.close()


def audited(folder: Path, url: str) -> AuditReport:
    """Audit a run against its host."""
    endpoint = HttpEndpoint(url)
    try:
        with Ledger(folder / "ledger.sqlite", create=False) as ledger:
            return audit(ledger, fetch_host_book(endpoint))
    finally:
        endpoint.close()


def command_line(*words: str) -> int:
    """Run the audit's command line."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    arguments = parser.parse_args(words)
    return int(arguments.run(arguments))


def test_a_run_through_faults_is_the_fault_free_run_and_costs_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 30 % of all requests spoiled, every reply is the same to the bit and the host charged no forward more."""
    calls = 50
    with server_in(tmp_path / "server") as server:
        clean = run_calls(new(tmp_path / "clean"), server.url, calls)
        assert charged(server.url) == calls * FORWARDS
        with FaultProxy(server.url, rate=0.3, seed=1) as proxy:
            assert run_calls(new(tmp_path / "faulty"), proxy.url, calls) == clean
        assert charged(server.url) == 2 * calls * FORWARDS
        report = audited(tmp_path / "faulty", server.url)
        assert command_line("audit", str(tmp_path / "faulty"), "--endpoint", server.url, "--json") == 0
    assert report.ok, report.to_text()
    assert json.loads(capsys.readouterr().out)["host_checked"]
    assert report.total.forwards == calls * FORWARDS
    assert report.waste.retries >= 10
    assert report.waste.replays >= 3
    assert all(proxy.counts[fault] for fault in FAULTS)


def child(pipe: Connection, folder: Path, url: str, calls: int) -> None:
    """Make the calls in this process, telling when it begins and how it ends."""
    pipe.send(run_calls(folder, url, calls, begun=lambda: pipe.send("begun")))


def run_killed(folder: Path, url: str, calls: int, after: float | None) -> str | None:
    """Make the calls in a process of their own; kill it `after` seconds of work, or let it end and return its digest."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=child, args=(theirs, folder, url, calls))
    process.start()
    theirs.close()
    assert ours.recv() == "begun"
    if after is not None:
        time.sleep(after)
        process.kill()
    digest = ours.recv() if after is None else None
    process.join()
    ours.close()
    return digest


def test_a_client_killed_at_twenty_moments_ends_as_if_it_never_was(tmp_path: Path) -> None:
    """After each kill -9 the same command goes on; the end is the same to the bit, and nothing was charged twice."""
    calls, kills = 40, 20
    rng = random.Random(2)
    run = new(tmp_path / "killed")
    with server_in(tmp_path / "server", seconds=0.005) as server:
        clean = run_calls(new(tmp_path / "clean"), server.url, calls)
        for _ in range(kills):
            run_killed(run, server.url, calls, after=rng.uniform(0.0, 0.05))
        assert run_killed(run, server.url, calls, after=None) == clean
        assert charged(server.url) == 2 * calls * FORWARDS
        report = audited(run, server.url)
    assert report.ok, report.to_text()


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def survive_server_kills(folder: Path, *, kills: int, calls: int) -> None:
    """Run through `kills` kill -9 of the server, and hold the run against one without."""
    rng = random.Random(3)
    with server_in(folder / "quiet") as server:
        clean = run_calls(new(folder / "clean"), server.url, calls)
    port = free_port()
    digests: list[str] = []
    url = f"http://127.0.0.1:{port}"
    run = new(folder / "run")
    begun = threading.Event()
    worker = threading.Thread(target=lambda: digests.append(run_calls(run, url, calls, begun.set)))
    for kill in range(kills + 1):
        with server_in(folder / "server", port=port, seconds=0.01) as server:
            if kill == 0:
                worker.start()
                assert begun.wait(60)
            if kill < kills:
                time.sleep(rng.uniform(0.05, 0.5))
                server.kill()
            else:
                worker.join(timeout=300)
                assert digests == [clean]
                assert charged(url) == calls * FORWARDS
                report = audited(run, url)
                assert report.ok, report.to_text()


def test_a_server_killed_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    """The client waits for the server to come back; every call is charged once and answered the same."""
    survive_server_kills(tmp_path, kills=3, calls=40)


@pytest.mark.slow
def test_a_server_killed_at_twenty_moments_changes_nothing(tmp_path: Path) -> None:
    """The same at 20 moments."""
    survive_server_kills(tmp_path, kills=20, calls=500)


def test_processes_sharing_a_book_stay_within_its_cap_at_the_host_too(tmp_path: Path) -> None:
    """Two processes of eight threads on one ledger are charged by the host what the ledger says, never over the cap."""
    cap = 30 * FORWARDS + 5
    folder = new(tmp_path / "run")
    with server_in(tmp_path / "server", seconds=0.002) as server:
        with FaultProxy(server.url, rate=0.2, seed=4) as proxy:
            command = [sys.executable, "-m", "tests.e2e.book_client", str(folder), proxy.url, "25", str(cap)]
            processes = [
                subprocess.Popen(
                    [*command, name, "8"], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
                )
                for name in "ab"
            ]
            told = sum(int(process.communicate(timeout=120)[0]) for process in processes)
        assert told == charged(server.url) == 30 * FORWARDS
        report = audited(folder, server.url)
    assert report.ok, report.to_text()
    assert report.total.forwards == 30 * FORWARDS <= cap
