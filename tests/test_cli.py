"""The command line, against a host of its own on loopback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from PIL import Image

from blackbox_ti.cli import main
from blackbox_ti.settings import InversionSettings
from tests.fake_host import FakeHost


@pytest.fixture
def host() -> FakeHost:
    """The host behind `url`."""
    return FakeHost(dim=16)


@pytest.fixture
def url(host: FakeHost) -> Iterator[str]:
    """The address of a real socket that hands every request to the fake host."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            target = f"http://{self.headers['Host']}{self.path}"
            reply = host.handle(httpx.Request(self.command, target, headers=dict(self.headers), content=body))
            self.send_response(reply.status_code)
            for name, value in reply.headers.items():
                if name.lower() != "content-length":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two pictures."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(2):
        Image.new("RGB", (12, 10), (100 * i, 30, 30)).save(folder / f"{i}.png")
    return folder


def _optimize(url: str, images: Path, out: Path, *more: str) -> int:
    common = ["--endpoint", url, "--images", str(images), "--out", str(out), "--dimension", "6", "--sigma", "1"]
    return main(["optimize", *common, "--max-forwards", "800", *more])


def test_optimize_then_generate(
    url: str, images: Path, tmp_path: Path, host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    """A word is learned, its path printed on stdout and its progress on stderr; then pictures are made of it."""
    assert _optimize(url, images, tmp_path / "run", "--initializer-token", "dog") == 0
    told = capsys.readouterr()
    embedding = told.out.strip()
    assert Path(embedding).name == "learned_embeds.safetensors"
    assert "forwards" in told.err
    assert host.forwards <= 800
    prompt = ["--prompt", "a sketch of <sks>", "--count", "2", "--num-inference-steps", "2"]
    assert main(["generate", "--endpoint", url, "--embedding", embedding, *prompt, "--out", str(tmp_path / "p")]) == 0
    paths = capsys.readouterr().out.split()
    assert [Path(p).name for p in paths] == ["prompt0-seed0.png", "prompt0-seed1.png"]
    for path in paths:
        with Image.open(path) as picture:
            assert picture.size == (8, 8)


def test_json_is_one_object_on_stdout_and_quiet_is_quiet(
    url: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine reads stdout; nobody is spoken to."""
    assert _optimize(url, images, tmp_path / "run", "--json", "--quiet") == 0
    told = capsys.readouterr()
    record = json.loads(told.out)
    assert record["heldout_loss_after"] < record["heldout_loss_before"]
    assert Path(record["embedding"]).exists()
    assert told.err == ""


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_each_mistake_has_a_clear_error_and_a_code_of_its_own(
    url: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No pictures, a broken one, nobody there, not one of ours, a taken word, a small budget, a folder in use."""
    empty, broken, used = tmp_path / "empty", tmp_path / "broken", tmp_path / "used"
    for folder in (empty, broken, used):
        folder.mkdir()
    (broken / "x.png").write_bytes(b"no picture")
    (used / "notes.txt").write_text("mine")
    nobody = f"http://127.0.0.1:{_free_port()}"
    out = tmp_path / "out"
    cases = [
        (_optimize(url, empty, out), 3, "no pictures"),
        (_optimize(url, broken, out), 3, "x.png"),
        (_optimize(nobody, images, out), 7, "127.0.0.1"),
        (_optimize(f"{url}/elsewhere", images, out), 8, "not a Blackbox TI endpoint"),
        (_optimize(url, images, out, "--placeholder-token", "cat"), 4, "already a token"),
        (_optimize(url, images, tmp_path / "o2", "--max-forwards", "20"), 6, "one generation"),
        (_optimize(url, images, used), 5, "in use"),
        (_optimize(url, images, out, "--sigma", "-1"), 2, "--sigma"),
        (_optimize(url, images, tmp_path / "o3", "--initializer-token", "zebra"), 2, "zebra"),
    ]
    told = capsys.readouterr().err
    for code, expected, words in cases:
        assert code == expected, words
        assert words in told
    assert "Traceback" not in told


def test_the_same_command_again_goes_on_with_the_run(
    url: str, images: Path, tmp_path: Path, host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is charged twice; another command in the same folder is refused."""
    assert _optimize(url, images, tmp_path / "run") == 0
    spent = host.forwards
    assert _optimize(url, images, tmp_path / "run") == 0
    assert host.forwards == spent
    assert _optimize(url, images, tmp_path / "run", "--seed", "9") == 13
    assert "seed was 0, is 9" in capsys.readouterr().err


def test_resume_needs_only_the_folder(
    url: str, images: Path, tmp_path: Path, host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on as it was begun, and ends in the same word; a folder without a run is refused."""
    assert _optimize(url, images, tmp_path / "run", "--seed", "4") == 0
    word, spent = (tmp_path / "run" / "learned_embeds.safetensors").read_bytes(), host.forwards
    assert main(["optimize", "--resume", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "learned_embeds.safetensors").read_bytes() == word
    assert host.forwards == spent
    assert main(["optimize", "--resume", str(tmp_path / "nothing")]) == 5
    assert main(["optimize"]) == 2
    assert "--resume DIR" in capsys.readouterr().err


def test_a_dry_run_tells_the_cost_the_run_then_has(
    url: str, images: Path, tmp_path: Path, host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is charged, no picture is sent, and the numbers are those of the whole run's book."""
    assert _optimize(url, images, tmp_path / "run", "--dry-run", "--json", "--initializer-token", "dog") == 0
    told = json.loads(capsys.readouterr().out)
    assert not host.receipts
    assert not host.concepts
    assert not (tmp_path / "run").exists()
    assert _optimize(url, images, tmp_path / "run", "--json", "--initializer-token", "dog") == 0
    assert json.loads(capsys.readouterr().out)["stop_reason"] == "plan_finished"
    assert told["total_forwards"] == host.forwards
    assert told["total_queries"] == sum(r.queries for r in host.receipts)
    assert told["total_price_micros"] == sum(r.price_micros for r in host.receipts) > 0


@pytest.mark.parametrize(("cap", "value"), [("--max-queries", "60"), ("--max-price", "0.000400")])
def test_every_cap_is_kept(
    url: str, images: Path, tmp_path: Path, host: FakeHost, cap: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search ends at the cap with the best so far, and the host charged no more."""
    assert _optimize(url, images, tmp_path / "run", cap, value, "--json") == 0
    assert json.loads(capsys.readouterr().out)["stop_reason"] == "budget_spent"
    assert sum(r.queries for r in host.receipts) > 0
    assert sum(r.queries for r in host.receipts) <= 60 or cap != "--max-queries"
    assert sum(r.price_micros for r in host.receipts) <= 400 or cap != "--max-price"


def test_ctrl_c_saves_the_best_so_far(url: str, images: Path, tmp_path: Path, host: FakeHost) -> None:
    """An interrupt ends the search with its own code, the word saved, and the pictures removed from the host."""
    run = tmp_path / "run"
    place = ["--endpoint", url, "--images", str(images), "--out", str(run)]
    command = [sys.executable, "-m", "blackbox_ti", "optimize", *place, "--dimension", "6", "--max-forwards", "500000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("generation"):
                break
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert told.strip() == str(run / "learned_embeds.safetensors")
    assert json.loads((run / "result.json").read_text())["stop_reason"] == "interrupted"
    assert not host.concepts


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The three jobs are there."""
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    told = capsys.readouterr().out
    assert all(c in told for c in ("optimize", "generate", "demo", "serve", "audit", "keys", "usage"))


def test_every_knob_of_the_search_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the settings have, `optimize --help` tells."""
    with pytest.raises(SystemExit):
        main(["optimize", "--help"])
    told = capsys.readouterr().out
    missing = [n for n in InversionSettings.model_fields if f"--{n.replace('_', '-')}" not in told]
    assert not missing


def test_the_papers_preset_says_what_it_will_do_and_options_override_it(
    url: str, images: Path, tmp_path: Path, host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dry run tells the reference code's choices; then it runs, within its budget, and records them."""
    common = ["optimize", "--endpoint", url, "--images", str(images), "--out", str(tmp_path / "run")]
    paper = [*common, "--preset", "paper", "--samples", "4", "--max-forwards", "400", "--initializer-token", "dog"]
    assert main([*paper, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "20 candidates x 4 samples" in told
    assert "luckiest" in told
    assert main([*paper, "--no-add-mean"]) == 0
    settings = json.loads((tmp_path / "run" / "result.json").read_text())["settings"]
    assert (settings["preset"], settings["samples"], settings["add_mean"]) == ("paper", 4, False)
    assert (settings["whiten"], settings["common_noise"], settings["answer"]) == (False, False, "luckiest")
    assert host.forwards <= 400
    assert main([*common, "--preset", "papre"]) == 2
    assert "choose one of default, paper" in capsys.readouterr().err
