"""Hosts of the Open Inference Protocol for real: our own server, MLServer, and Triton, each a process of its own.

MLServer and Triton pin other versions of our dependencies, so they may live in environments of their own: the
variables BLACKBOX_TI_MLSERVER_PYTHON and BLACKBOX_TI_TRITON_PYTHON name their Python. Without these the tests use this
one, and are skipped where the package is not installed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from blackbox_ti.budget import Caps
from blackbox_ti.concept import load_concept
from blackbox_ti.endpoint import Guarantees
from blackbox_ti.errors import RejectedError
from blackbox_ti.http_endpoint import HttpEndpoint
from blackbox_ti.inversion import invert
from blackbox_ti.ledger import Ledger
from blackbox_ti.oip_endpoint import OipEndpoint
from blackbox_ti.oip_mapping import load_mapping
from blackbox_ti.run_folder import LEDGER_NAME, run_endpoint
from blackbox_ti.settings import InversionSettings
from blackbox_ti.wire import ImageItem, ImagesRequest, LossRequest, Sample, decode_tensor, encode_tensor
from server_stub.tiny import PIPELINE_DIR
from tests.e2e.references import references
from tests.e2e.server_processes import fake_server
from tests.fake_host import png

ROOT = Path(__file__).parents[2]
START_SECONDS = 500
FORWARDS = 300


def python_with(package: str, variable: str) -> str:
    """Return a Python that has a package, or skip."""
    python = os.environ.get(variable, sys.executable)
    found = subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"{package} is not installed: install it, or name a Python that has it in {variable}")
    return python


def free_ports(count: int) -> list[int]:
    """Return ports that were free just now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


@contextmanager
def process(command: list[str], port: int, log: Path, **environment: str) -> Iterator[str]:
    """Run a server until both models are ready; yield its address."""
    url = f"http://127.0.0.1:{port}"
    given = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=given, cwd=log.parent) as running:
        try:
            wait_until_ready(url, running, log)
            yield url
        finally:
            running.terminate()
            try:
                running.wait(60)
            except subprocess.TimeoutExpired:
                running.kill()


def wait_until_ready(url: str, running: subprocess.Popen[bytes], log: Path) -> None:
    """Return when both models take work; fail if the process ends first."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and running.poll() is None:
        try:
            if all(httpx.get(f"{url}/v2/models/{m}/ready", timeout=10).is_success for m in ("loss", "images")):
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(log.read_text()[-3000:])


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of MLServer with the bundled model, through the model files that the project ships."""
    python = python_with("mlserver", "BLACKBOX_TI_MLSERVER_PYTHON")
    http, grpc, metrics = free_ports(3)
    ports = {"HTTP_PORT": http, "GRPC_PORT": grpc, "METRICS_PORT": metrics}
    models = str(ROOT / "server_stub" / "hosting" / "mlserver")
    command = [python, "-c", "from mlserver.cli import main; main()", "start", models]
    log = tmp_path_factory.mktemp("mlserver") / "log"
    with process(command, http, log, **{f"MLSERVER_{name}": str(port) for name, port in ports.items()}) as url:
        yield url


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of Triton with the bundled model, through the script that the project ships."""
    python = python_with("pytriton", "BLACKBOX_TI_TRITON_PYTHON")
    http, grpc, metrics = free_ports(3)
    command = [python, "-m", "server_stub.hosting.triton", "tiny", "--http-port", str(http), "--grpc-port", str(grpc)]
    log = tmp_path_factory.mktemp("triton") / "log"
    with process([*command, "--metrics-port", str(metrics)], http, log) as url:
        yield url


def loss_request(concept: str, dim: int) -> LossRequest:
    """Return two candidates on three samples."""
    values = np.random.default_rng(0).normal(0, 0.03, (2, 1, dim)).astype(np.float32)
    bank = [Sample(image=i, prompt=i % 2, t=0.2 + 0.3 * i, seed=10**12 + i) for i in range(3)]
    return LossRequest(
        concept=concept,
        placeholder_token="<sks>",
        embeddings={"text_encoder": encode_tensor(values)},
        prompts=["a photo of <sks>", "a sketch of <sks>"],
        samples=bank,
    )


def images_request(dim: int) -> ImagesRequest:
    """Return two pictures of few steps."""
    values = np.random.default_rng(1).normal(0, 0.03, (1, 1, dim)).astype(np.float32)
    return ImagesRequest(
        placeholder_token="<sks>",
        embeddings={"text_encoder": encode_tensor(values)},
        prompts=["a photo of <sks>"],
        items=[ImageItem(candidate=0, prompt=0, seed=s) for s in (1, 2)],
        num_inference_steps=2,
    )


def check_against_engine(endpoint: OipEndpoint, folder: Path) -> None:
    """Check that losses and pictures are those of the same engine in this process."""
    from server_stub.diffusers_engine import DiffusersEngine
    from server_stub.in_process import InProcessEndpoint

    own = InProcessEndpoint(DiffusersEngine.load(PIPELINE_DIR))
    card = endpoint.describe()
    assert card.fingerprint == own.describe().fingerprint
    dim = card.encoders[0].dim
    files = load_concept(references(folder / "references"), card.resolution).pngs
    found = endpoint.losses(loss_request(endpoint.register_concept(files), dim), label="x").losses
    expected = own.losses(loss_request(own.register_concept(files), dim), label="x").losses
    assert found is not None
    assert expected is not None
    np.testing.assert_allclose(decode_tensor(found), decode_tensor(expected), rtol=1e-4)
    assert endpoint.images(images_request(dim), label="x").images == own.images(images_request(dim), label="x").images


def check_learning(endpoint_url: str, folder: Path, **options: Any) -> None:
    """Learn a word within the cap, and check that the held-out loss fell and all that was sent is in the book."""
    settings = InversionSettings(max_forwards=FORWARDS, seed=0)
    pictures = references(folder / "pictures")
    concept = load_concept(pictures, 64)
    with run_endpoint(
        folder / "run",
        lambda hook: OipEndpoint(endpoint_url, on_attempt=hook, **options),
        settings,
        concept,
        Caps(forwards=FORWARDS),
    ) as endpoint:
        result = invert(endpoint, pictures, settings)
    assert result.heldout_loss_before is not None
    assert result.heldout_loss_after is not None
    assert result.heldout_loss_after < result.heldout_loss_before
    with Ledger(folder / "run" / LEDGER_NAME, create=False) as ledger:
        assert ledger.committed().forwards == result.forwards <= FORWARDS
        assert ledger.faults() == []


def test_our_own_server_is_one_of_them(tmp_path: Path) -> None:
    """Without a mapping: the same losses as by our own protocol, exact charges, and a repeated key charged once."""
    with fake_server(tmp_path) as server:
        endpoint, own = OipEndpoint(server.url), HttpEndpoint(server.url)
        assert endpoint.describe().fingerprint == own.describe().fingerprint
        assert endpoint.guarantees == Guarantees(idempotency=True, exact_cost=True, receipts=False)
        files = [png((level, level, level), (16, 16)) for level in (10, 90, 200)]
        request = loss_request(endpoint.register_concept(files), 8)
        request = request.model_copy(update={"embeddings": {"text": request.embeddings["text_encoder"]}})
        replies = [endpoint.losses(request, label="x", key="k") for _ in range(2)]
        assert replies[0] == replies[1]
        concept = own.register_concept(files)
        assert own.losses(request.model_copy(update={"concept": concept}), label="x").losses == replies[0].losses
        drawn = images_request(8)
        drawn = drawn.model_copy(update={"embeddings": {"text": drawn.embeddings["text_encoder"]}})
        assert endpoint.images(drawn, label="x").images == own.images(drawn, label="x").images
        assert own.usage().forwards == 2 * 6 + 2 * 2 * 2 * 2
        assert endpoint.usage().forwards == 2 * 6 + 2 * 2 * 2
        for closing in (endpoint, own):
            closing.close()


def test_a_host_that_only_ranks_is_one_too(tmp_path: Path) -> None:
    """Our own server in rank mode: the order of the candidates, as by our own protocol."""
    with fake_server(tmp_path, reply_mode="rank") as server:
        endpoint, own = OipEndpoint(server.url), HttpEndpoint(server.url)
        assert endpoint.describe().reply_mode == "rank"
        files = [png((level, level, level), (16, 16)) for level in (10, 90, 200)]
        request = loss_request(endpoint.register_concept(files), 8)
        request = request.model_copy(update={"embeddings": {"text": request.embeddings["text_encoder"]}})
        ranked = endpoint.losses(request, label="x")
        assert ranked.losses is None
        same = own.losses(request.model_copy(update={"concept": own.register_concept(files)}), label="x")
        assert (ranked.ranking, ranked.charge.forwards) == (same.ranking, 6)
        for closing in (endpoint, own):
            closing.close()


@pytest.mark.slow
def test_mlserver_answers_what_the_engine_answers(mlserver: str, tmp_path: Path) -> None:
    """Through real MLServer, described by itself: the same losses and the same pictures."""
    endpoint = OipEndpoint(mlserver)
    check_against_engine(endpoint, tmp_path)
    assert not endpoint.guarantees.idempotency
    endpoint.close()


@pytest.mark.slow
def test_mlservers_refusals_are_typed_and_told(mlserver: str, tmp_path: Path) -> None:
    """A picture too few is the runtime's own refusal, with its words."""
    endpoint = OipEndpoint(mlserver)
    dim = endpoint.describe().encoders[0].dim
    with pytest.raises(RejectedError, match="names an image"):
        endpoint.losses(loss_request(endpoint.register_concept([png()]), dim), label="x")
    endpoint.close()


@pytest.mark.slow
def test_a_word_is_learned_on_mlserver(mlserver: str, tmp_path: Path) -> None:
    """The main job against MLServer."""
    check_learning(mlserver, tmp_path)


def triton_mapping(folder: Path) -> Any:
    """Return the mapping that the project prints for the bundled model."""
    done = subprocess.run(
        [sys.executable, "-m", "server_stub.hosting.mapping", "tiny"], capture_output=True, check=True, cwd=ROOT
    )
    path = folder / "mapping.toml"
    path.write_bytes(done.stdout)
    return load_mapping(path)


@pytest.mark.slow
def test_triton_answers_what_the_engine_answers(triton: str, tmp_path: Path) -> None:
    """Through real Triton, tensors as bytes, by the printed mapping: the same losses and the same pictures."""
    endpoint = OipEndpoint(triton, mapping=triton_mapping(tmp_path))
    check_against_engine(endpoint, tmp_path)
    endpoint.close()


@pytest.mark.slow
def test_a_word_is_learned_on_triton(triton: str, tmp_path: Path) -> None:
    """The main job against Triton."""
    check_learning(triton, tmp_path, mapping=triton_mapping(tmp_path))
