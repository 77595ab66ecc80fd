"""`blackbox-ti doctor` against real servers: TLS and keys, pictures alone, another protocol, and what is no host."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from blackbox_ti.cli import main
from blackbox_ti.connection import ConnectionOptions
from blackbox_ti.doctor_tls import shake_hands
from blackbox_ti.errors import ConnectError
from blackbox_ti.http_endpoint import HttpEndpoint
from server_stub.accounts import Accounts
from server_stub.database import Books
from tests.e2e.server_processes import fake_server
from tests.server_stub.certificates import Authority


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return exit code, report, and each check's status."""
    code = main(["doctor", "--json", *words])
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["exit_code"] == code
    return code, report, {f["check"]: f["status"] for f in report["findings"]}


def a_key(folder: Path) -> Path:
    """Make an account's key for the server whose state is in `folder`, and return the file it is in."""
    (folder / "state").mkdir()
    books = Books(f"sqlite:///{folder / 'state' / 'books.sqlite'}")
    _, key = Accounts(books).create_key("ada")
    books.close()
    file = folder / "key"
    file.write_text(key)
    return file


def test_a_host_with_tls_and_keys_is_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Version and end of the certificate are told, strangers are refused, and the books agree on what it cost."""
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("127.0.0.1")
    key = a_key(tmp_path)
    with fake_server(tmp_path, tls_cert=str(pair.certificate), tls_key=str(pair.key)) as server:
        reach = ["--endpoint", server.url, "--api-key-file", str(key), "--ca-file", str(authority.certificate)]
        code, report, found = told(capsys, *reach)
        assert code == 0, report
        assert (found["tls"], found["auth"], found["idempotency"]) == ("ok", "ok", "ok")
        tls = next(f for f in report["findings"] if f["check"] == "tls")
        assert tls["data"]["version"] in {"TLSv1.2", "TLSv1.3"}
        assert 28 < tls["data"]["days"] < 31
        options = ConnectionOptions(ca_file=authority.certificate)
        endpoint = HttpEndpoint(server.url, api_key=key.read_text(), options=options)
        assert endpoint.usage().forwards == report["spent"]["forwards"] <= report["cost"]["forwards"]
        endpoint.close()
        with pytest.raises(ConnectError, match="--ca-file"):
            shake_hands(server.url, ConnectionOptions())
        code, report, found = told(capsys, "--endpoint", server.url, "--ca-file", str(authority.certificate))
        assert (code, found["tls"], found["reachable"]) == (21, "ok", "bad")


def test_the_cost_is_said_before_it_is_spent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr; a dry run ends there."""
    with fake_server(tmp_path) as server:
        assert main(["doctor", "--dry-run", "--endpoint", server.url]) == 0
        captured = capsys.readouterr()
        assert "this probe costs at most" in captured.err
        assert "spent: 0 of" in captured.out
        endpoint = HttpEndpoint(server.url)
        assert endpoint.usage().forwards == 0
        endpoint.close()


def test_a_host_of_pictures_alone_is_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures are compared byte for byte, and the objective recommended is the one there is."""
    with fake_server(tmp_path, objectives=["images"]) as server:
        code, report, found = told(capsys, "--endpoint", server.url)
    assert code == 0, report
    assert (found["determinism"], found["batch mates"], found["noise"]) == ("ok", "ok", "skipped")
    assert report["recommended"]["objective"] == "images"


def test_the_open_inference_protocol_is_probed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Our own server answers it; what it does not promise there is a limit."""
    with fake_server(tmp_path) as server:
        code, report, found = told(capsys, "--endpoint", server.url, "--protocol", "oip")
    assert code in {0, 20}, report
    assert "bad" not in found.values(), report
    assert found["determinism"] == "ok"
    assert found["guarantees"] == "limit"


@contextmanager
def web_page() -> Iterator[str]:
    """Yield the address of a server that answers everything with a page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html>hello</html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_is_no_host_is_not_usable(capsys: pytest.CaptureFixture[str]) -> None:
    """A web page is told apart, and nothing is recommended."""
    with web_page() as url:
        code, report, found = told(capsys, "--endpoint", url)
    assert (code, found["reachable"], report["recommended"]) == (21, "bad", None)
    assert report["verdict"] == "not usable"
