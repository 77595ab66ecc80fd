"""A key, pictures and embeddings planted in a whole run, looked for in everything that either side leaves behind."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import load_file, save_file

from server_stub.accounts import Accounts, Scope
from server_stub.database import Books
from tests.e2e.server_processes import ServerProcess, fake_server
from tests.server_stub.fake_engine import DIM

WRITING = "12-planted-lane"
WORD = "<sks>"


def _pictures(folder: Path) -> Path:
    """Two pictures whose metadata say where they were taken."""
    folder.mkdir()
    exif, text = Image.Exif(), PngInfo()
    exif[0x010E] = WRITING
    text.add_text("Comment", WRITING)
    for i, name in enumerate(("a.jpg", "b.png")):
        rng = np.random.default_rng(i)
        picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        picture.save(folder / name, exif=exif, pnginfo=text)
    return folder


def _start(path: Path) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    vector = np.random.default_rng(9).normal(scale=0.3, size=DIM).astype(np.float32)
    save_file({WORD: vector}, path)
    return vector


def _optimize(server: ServerProcess, folder: Path, key: str, out: str) -> subprocess.CompletedProcess[str]:
    options = ["--placeholder-token", WORD, "--max-forwards", "260", "--popsize", "4", "--samples", "4"]
    paths = ["--images", "pictures", "--initial-embedding", "start.safetensors", "--out", out]
    command = [sys.executable, "-m", "blackbox_ti", "optimize", "--endpoint", server.url, *paths, *options]
    environment = {**os.environ, "BLACKBOX_TI_API_KEY": key, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _files(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def _forms(value: bytes) -> list[bytes]:
    """What bytes might be written as: raw, in hex, and in base64 at any offset."""
    coded = [base64.b64encode(value[i:])[4:-4] for i in range(3)]
    return [value, value.hex().encode(), *coded]


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[bytes]]:
    """Return the folder of a finished run, the key it had, and everything printed or logged by either side."""
    folder = tmp_path_factory.mktemp("planted")
    _pictures(folder / "pictures")
    _start(folder / "start.safetensors")
    with fake_server(folder, vocabulary=True, log_level="debug") as server:
        accounts = Accounts(Books(f"sqlite:///{folder}/state/books.sqlite"))
        _, key = accounts.create_key("ada", scopes=tuple(Scope))
        done = _optimize(server, folder, key, "run")
        assert done.returncode == 0, done.stderr
        _, weak = accounts.create_key("bob", scopes=(Scope.USAGE,))
        wrong = [_optimize(server, folder, k, "refused") for k in (key[:-4] + "AAAA", weak)]
        assert [w.returncode for w in wrong] == [9, 9]
        server.terminate()
        told = [done.stdout, done.stderr, *(w.stdout + w.stderr for w in wrong), server.log.read_text()]
    assert weak not in "".join(told)
    return folder, key, [text.encode() for text in told]


def test_the_key_is_nowhere(run: tuple[Path, str, list[bytes]]) -> None:
    """Neither whole nor its secret end: not in a log, an error, the run's folder, its report, or the server's books."""
    folder, key, told = run
    left = [*_files(folder / "run", folder / "state").values(), *told]
    assert len(left) > 8
    for planted in (key, key[-20:]):
        assert [content[:40] for content in left if planted.encode() in content] == []


def test_what_a_camera_wrote_is_nowhere(run: tuple[Path, str, list[bytes]]) -> None:
    """Metadata of the pictures reach neither the host nor the run's folder."""
    folder, _, told = run
    assert WRITING.encode() in (folder / "pictures" / "a.jpg").read_bytes()
    for content in (*_files(folder / "run", folder / "state").values(), *told):
        assert not any(form in content for form in _forms(WRITING.encode()))


def test_pictures_and_embeddings_are_in_no_log_or_report(run: tuple[Path, str, list[bytes]]) -> None:
    """Nor the pixels sent, nor the vectors asked about or learned: raw, in hex, in base64, or as decimals."""
    folder, _, told = run
    shown = [*told, (folder / "run" / "report.html").read_bytes(), (folder / "run" / "result.json").read_bytes()]
    learned = load_file(folder / "run" / "learned_embeds.safetensors")[WORD]
    pixels = np.asarray(Image.open(folder / "pictures" / "b.png"))
    planted = [form for value in (learned.tobytes(), pixels[0].tobytes()) for form in _forms(value)]
    planted += [f"{number:.6g}".encode() for number in learned if abs(number) > 1e-3]
    assert planted[0] in (folder / "run" / "learned_embeds.safetensors").read_bytes()
    for content in shown:
        assert [form for form in planted if form in content] == []
        assert b"iVBORw0KGgo" not in content
