"""Image mode between real processes: a host draws over HTTP, and a word is learned from what it draws."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blackbox_ti.budget import Caps
from blackbox_ti.concept import load_concept
from blackbox_ti.http_endpoint import HttpEndpoint
from blackbox_ti.inversion import invert
from blackbox_ti.run_folder import run_endpoint
from blackbox_ti.settings import InversionSettings
from tests.e2e.references import references
from tests.e2e.server_processes import ServerProcess, serving
from tests.e2e.test_books import audited, charged, server_in


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The bundled model behind a socket."""
    folder = tmp_path_factory.mktemp("server")
    state = ["--state", str(folder / "state")]
    command = [sys.executable, "-m", "blackbox_ti", "serve", "--port", "0", "--vocabulary", *state]
    with serving(command, folder / "log") as running:
        yield running


def _optimize(url: str, pictures: Path, run: Path) -> dict[str, Any]:
    place = ["--endpoint", url, "--images", str(pictures), "--out", str(run), "--json", "--quiet"]
    search = [
        "--objective",
        "images",
        "--clip",
        "tiny",
        "--search-steps",
        "2",
        "--search-guidance-scale",
        "1",
        "--initializer-token",
        "heart",
    ]
    small = ["--max-forwards", "160", "--popsize", "4", "--samples", "2", "--heldout", "4"]
    command = [sys.executable, "-m", "blackbox_ti", "optimize", *place, *search, *small]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def test_the_books_of_both_sides_agree_on_pictures(tmp_path: Path) -> None:
    """The real server's bill is the plan's cost, its receipts match the run's book, and going on asks nothing more."""
    settings = InversionSettings(
        max_forwards=400,
        search_steps=2,
        search_guidance_scale=1.0,
        initializer_token="cat",
        objective="images",
        scorer="tests.painter:likeness",
    )
    pictures = [Image.new("RGB", (16, 16), (200, 40, 90))]
    words = []
    with server_in(tmp_path / "server", vocabulary=True) as server:
        for _ in range(2):
            caps = Caps(forwards=settings.max_forwards)
            concept = load_concept(pictures, 16)
            with run_endpoint(
                tmp_path / "run", lambda hook: HttpEndpoint(server.url, on_attempt=hook), settings, concept, caps
            ) as endpoint:
                result = invert(endpoint, pictures, settings)
            words.append(b"".join(result.embedding[name].tobytes() for name in sorted(result.embedding)))
            assert charged(server.url) == result.plan.total == result.forwards
        report = audited(tmp_path / "run", server.url)
    assert words[0] == words[1]
    assert report.ok, report.to_text()
    assert report.total.queries == result.forwards // 2


@pytest.mark.slow
def test_a_word_is_learned_from_pictures_alone(server: ServerProcess, tmp_path: Path) -> None:
    """The cost is the host's bill, no picture is registered, and the books of both sides agree."""
    run = tmp_path / "run"
    record = _optimize(server.url, references(tmp_path / "pictures"), run)
    assert record["objective"] == "images"
    assert record["scorer"] == "clip (image 1, text 0)"
    assert -1 <= record["heldout_score_before"] <= 1
    assert -1 <= record["heldout_score_after"] <= 1
    with server.client() as client:
        usage = client.get("/v1/usage").json()
        metrics = client.get("/metrics").text
    assert usage["forwards"] == record["forwards"] <= 160
    assert usage["queries"] == record["queries"] == record["forwards"] // 2
    assert "/v1/images" in metrics
    assert "/v1/concepts" not in metrics
    audit = [sys.executable, "-m", "blackbox_ti", "audit", str(run), "--endpoint", server.url]
    audited = subprocess.run(audit, capture_output=True, text=True, check=False, timeout=100)
    assert audited.returncode == 0, audited.stdout + audited.stderr
