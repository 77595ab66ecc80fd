"""A whole search over real HTTP, disturbed, against the same search undisturbed: the same embedding, the same cost."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blackbox_ti.budget import Caps
from blackbox_ti.concept import load_concept
from blackbox_ti.http_endpoint import HttpEndpoint
from blackbox_ti.inversion import invert
from blackbox_ti.run_folder import run_endpoint
from blackbox_ti.settings import InversionSettings
from tests.e2e.fault_proxy import FaultProxy
from tests.e2e.test_books import audited, charged, new, server_in

SETTINGS = InversionSettings.model_validate(
    {
        "max_forwards": 600,
        "subspace": "full",
        "popsize": 6,
        "samples": 4,
        "heldout": 8,
        "initializer_token": "cat",
        "seed": 5,
    }
)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two pictures."""
    folder = new(tmp_path / "pictures")
    for n in range(2):
        Image.new("RGB", (32, 32), (200, 40 * n, 90)).save(folder / f"{n}.png")
    return folder


def run(folder: Path, url: str, pictures: Path) -> bytes:
    """Search, or go on searching, with the book in `folder`; return the embedding's bytes."""

    def connect(hook: object) -> HttpEndpoint:
        return HttpEndpoint(
            url,
            on_attempt=hook,  # type: ignore[arg-type]
            rng=np.random.default_rng(0),
            sleep=lambda seconds: time.sleep(min(seconds, 0.05)),
        )

    concept = load_concept(pictures, 16)
    with run_endpoint(folder, connect, SETTINGS, concept, Caps(forwards=SETTINGS.max_forwards)) as endpoint:
        result = invert(endpoint, pictures, SETTINGS, keep_concept=True)
    return b"".join(result.embedding[name].tobytes() for name in sorted(result.embedding))


def child(pipe: Connection, folder: Path, url: str, pictures: Path) -> None:
    """Search in this process, telling how it ends."""
    pipe.send(run(folder, url, pictures))


def test_a_search_through_faults_ends_in_the_same_embedding_at_the_same_cost(tmp_path: Path, pictures: Path) -> None:
    """30 % of all requests spoiled change no bit of the word and no forward of the bill."""
    with server_in(tmp_path / "server", vocabulary=True) as server:
        clean = run(tmp_path / "clean", server.url, pictures)
        cost = charged(server.url)
        with FaultProxy(server.url, rate=0.3, seed=11) as proxy:
            assert run(tmp_path / "faulty", proxy.url, pictures) == clean
        assert charged(server.url) == 2 * cost <= 2 * SETTINGS.max_forwards
        report = audited(tmp_path / "faulty", server.url)
    assert report.ok, report.to_text()
    assert report.total.forwards == cost
    assert report.waste.retries > 0


def test_a_search_killed_and_gone_on_with_ends_in_the_same_embedding_at_the_same_cost(
    tmp_path: Path, pictures: Path
) -> None:
    """Kill -9 at several moments of the search, each time gone on with by the same call, leaves no trace."""
    fork = multiprocessing.get_context("fork")
    rng = random.Random(12)
    with server_in(tmp_path / "server", vocabulary=True, seconds=0.01) as server:
        clean = run(tmp_path / "clean", server.url, pictures)
        cost = charged(server.url)
        for _ in range(8):
            process = fork.Process(target=child, args=(fork.Pipe()[1], tmp_path / "killed", server.url, pictures))
            process.start()
            process.join(rng.uniform(0.1, 1.0))
            process.kill()
            process.join()
        assert run(tmp_path / "killed", server.url, pictures) == clean
        assert charged(server.url) == 2 * cost
        report = audited(tmp_path / "killed", server.url)
    assert report.ok, report.to_text()
