"""The bundled model behind our handler in a web service of its own process, and in the toolkit's where it is at hand."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from blackbox_ti.audit import audit
from blackbox_ti.audit_report import AuditReport
from blackbox_ti.budget import Caps
from blackbox_ti.cli import main
from blackbox_ti.concept import load_concept
from blackbox_ti.hf_endpoint import HfEndpoint
from blackbox_ti.inversion import InversionResult, invert
from blackbox_ti.ledger import Ledger
from blackbox_ti.run_folder import run_endpoint
from blackbox_ti.settings import InversionSettings
from blackbox_ti.wire import decode_tensor
from server_stub.hosting import huggingface
from server_stub.tiny import PIPELINE_DIR
from tests.e2e.server_processes import ServerProcess, serving
from tests.fake_host import loss_request, png

SETTINGS = InversionSettings.model_validate(
    {
        "max_forwards": 160,
        "subspace": "random",
        "popsize": 4,
        "samples": 4,
        "heldout": 4,
        "heldout_checks": 2,
        "seed": 5,
    }
)
# Where the toolkit and its dependencies are, as a PYTHONPATH: it is on no package index.
TOOLKIT = "BLACKBOX_TI_TEST_HF_TOOLKIT"
TOKEN = "hf_not_a_real_token"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository as a user makes it: the bundled pipeline, `handler.py` and `requirements.txt` beside it."""
    folder = tmp_path_factory.mktemp("repository") / "model"
    shutil.copytree(PIPELINE_DIR, folder, copy_function=os.symlink)
    ours = Path(str(huggingface.__file__)).parent
    for name in ("handler.py", "requirements.txt"):
        shutil.copy(ours / name, folder / name)
    return folder


@contextmanager
def service(repository: Path, log: Path, **given: object) -> Iterator[ServerProcess]:
    """Yield the web service of the documented contract around the repository."""
    options = json.dumps({"model_dir": str(repository), **given})
    with serving([sys.executable, "-m", "tests.e2e.hf_server", options], log) as server:
        assert server.url, log.read_text()
        yield server


@pytest.fixture(scope="module")
def steady(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service on which nothing goes wrong."""
    with service(repository, tmp_path_factory.mktemp("steady") / "log", token=TOKEN) as server:
        yield server.url


@contextmanager
def toolkit(repository: Path, log: Path) -> Iterator[str]:
    """Yield the address of the toolkit's own web service around the repository."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = "huggingface_inference_toolkit.webservice_starlette:app"
    command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            env={**os.environ, "HF_MODEL_DIR": str(repository), "PYTHONPATH": os.environ[TOOLKIT]},
            stdout=stderr,
            stderr=stderr,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            while process.poll() is None:
                try:
                    httpx.get(f"{url}/health")
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield url
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(2):
        Image.new("RGB", (64, 64), (200, 40 * n, 90)).save(folder / f"{n}.png")
    return folder


def connected(url: str, hook: Callable[..., None] | None = None) -> HfEndpoint:
    """Return an endpoint that waits no longer than a test should."""
    rng = np.random.default_rng(0)
    return HfEndpoint(url, api_key=TOKEN, on_attempt=hook, rng=rng, sleep=lambda s: time.sleep(min(s, 0.05)))


def run(folder: Path, url: str, pictures: Path) -> tuple[InversionResult, AuditReport]:
    """Search, or go on searching, with the book in `folder`, and audit it."""
    concept = load_concept(pictures, 64)
    caps = Caps(forwards=SETTINGS.max_forwards + 40)
    with run_endpoint(folder, lambda hook: connected(url, hook), SETTINGS, concept, caps) as endpoint:
        result = invert(endpoint, pictures, SETTINGS, keep_concept=True)
    with Ledger(folder / "ledger.sqlite", create=False) as ledger:
        return result, audit(ledger)


def test_a_search_through_starts_and_lost_replies_ends_in_the_same_bits(
    steady: str, repository: Path, pictures: Path, tmp_path: Path
) -> None:
    """503 while starting costs nothing; each lost reply is paid for twice, said so, and changes no bit of the word."""
    clean, report = run(tmp_path / "clean", steady, pictures)
    assert report.lost == []
    assert report.ok, report.to_text()
    with service(repository, tmp_path / "log", starting=3, drop=[6, 7], token=TOKEN) as server:
        lossy, report = run(tmp_path / "lossy", server.url, pictures)
        again, _ = run(tmp_path / "lossy", server.url, pictures)
    assert clean.plan == lossy.plan
    for result in (lossy, again):
        assert np.array_equal(result.embedding["text_encoder"], clean.embedding["text_encoder"])
    assert report.ok, report.to_text()
    assert len(report.lost) == 2
    assert report.total.forwards - report.unanswered.forwards == clean.forwards == lossy.forwards
    assert report.total.forwards <= SETTINGS.max_forwards + 40
    assert sum(report.waste.failures.values()) == 2


def test_losses_are_the_engines_own_bits(steady: str) -> None:
    """The web service says what the engine says in this process; pictures it lost are sent again."""
    from server_stub.diffusers_engine import DiffusersEngine
    from server_stub.in_process import InProcessEndpoint

    engine = DiffusersEngine.load("tiny")
    engine.warm_up()
    here = InProcessEndpoint(engine)
    picture = png(size=(64, 64))
    encoder = engine.info.encoders[0]
    values = np.random.default_rng(0).normal(0, 0.4, (2, 1, encoder.dim)).astype(np.float32)
    request = loss_request(here.register_concept([picture]), values, samples=3)
    request = request.model_copy(update={"embeddings": {encoder.name: request.embeddings["text"]}})
    endpoint = connected(steady)
    assert endpoint.register_concept([picture]) == request.concept
    removal = {"inputs": {"concept": request.concept}, "parameters": {"task": "delete_concept"}}
    removed = httpx.post(steady, json=removal, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120)
    assert "reply" in removed.json()
    told = endpoint.losses(request, label="x").losses
    assert endpoint.describe().fingerprint == engine.info.fingerprint
    endpoint.close()
    ours = here.losses(request, label="x").losses
    assert told is not None
    assert ours is not None
    assert np.array_equal(decode_tensor(told), decode_tensor(ours))


def test_the_doctor_tells_its_limits(steady: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`doctor --protocol hf` with a token from a file: usable, deterministic, and what is not guaranteed is said."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    reach = ["--protocol", "hf", "--endpoint", steady, "--api-key-file", str(token)]
    assert main(["doctor", *reach, "--batch-forwards", "16", "--json"]) == 20
    told = json.loads(capsys.readouterr().out)
    found = {f["check"]: f["status"] for f in told["findings"]}
    assert (found["auth"], found["determinism"], found["batch mates"]) == ("ok", "ok", "ok"), told
    assert (found["idempotency"], found["prices"], found["guarantees"]) == ("limit", "limit", "limit")
    assert told["spent"] == told["cost"]


@pytest.mark.skipif(TOOLKIT not in os.environ, reason=f"set {TOOLKIT} to the toolkit's PYTHONPATH")
def test_the_toolkits_own_web_service_serves_it(repository: Path, tmp_path: Path, pictures: Path) -> None:
    """The same search through the web service that hosted endpoints run."""
    with toolkit(repository, tmp_path / "log") as url:
        _, report = run(tmp_path / "run", url, pictures)
    assert report.ok, report.to_text()
    assert report.lost == []
