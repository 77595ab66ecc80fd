"""The client's TLS over real handshakes: who it believes, and whom it lets in."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from blackbox_ti.connection import ConnectionOptions
from blackbox_ti.errors import AuthError, ConnectError
from blackbox_ti.http_endpoint import HttpEndpoint
from tests.fake_host import FakeHost
from tests.server_stub.certificates import Authority, Pair

CARD = FakeHost().card.model_dump_json().encode()


class Card(BaseHTTPRequestHandler):
    """Answers every request with a model card."""

    def do_GET(self) -> None:
        """Send the card."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(CARD)))
        self.end_headers()
        self.wfile.write(CARD)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Quiet(ThreadingHTTPServer):
    """A server to which a failed handshake is no event."""

    def handle_error(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def tls_host(pair: Pair, clients: Path | None = None, newest: ssl.TLSVersion | None = None) -> Iterator[str]:
    """Yield the address of a TLS server; with `clients` it asks for a certificate of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if newest is not None:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = newest
        context.set_ciphers("ALL:@SECLEVEL=0")
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    server = Quiet(("127.0.0.1", 0), Card)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def describe(url: str, options: ConnectionOptions) -> str:
    """Return the model's name as a client with these options gets it."""
    endpoint = HttpEndpoint(url, options=options, sleep=lambda _: None)
    try:
        return endpoint.describe().model
    finally:
        endpoint.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority."""
    return Authority(tmp_path, "ca")


def test_a_host_of_the_authority_given_is_believed(authority: Authority) -> None:
    """The custom CA is what makes the host known."""
    with tls_host(authority.issue("127.0.0.1")) as url:
        assert describe(url, ConnectionOptions(ca_file=authority.certificate)) == "fake"


def test_an_unknown_authority_is_refused_at_once(authority: Authority, tmp_path: Path) -> None:
    """Neither the system's authorities nor another custom one vouch for the host."""
    other = Authority(tmp_path, "other")
    with tls_host(authority.issue("127.0.0.1")) as url:
        for options in (ConnectionOptions(), ConnectionOptions(ca_file=other.certificate)):
            with pytest.raises(ConnectError, match="certificate is not accepted"):
                describe(url, options)


@pytest.mark.parametrize(("name", "expired"), [("localhost", False), ("127.0.0.2", False), ("127.0.0.1", True)])
def test_a_wrong_name_or_an_old_certificate_is_refused(authority: Authority, name: str, *, expired: bool) -> None:
    """A certificate is good for its name and its time alone."""
    options = ConnectionOptions(ca_file=authority.certificate)
    with (
        tls_host(authority.issue(name, expired=expired)) as url,
        pytest.raises(ConnectError, match="certificate is not accepted"),
    ):
        describe(url, options)


def test_a_client_certificate_lets_in_and_its_lack_does_not(authority: Authority) -> None:
    """Mutual TLS works with the certificate given, and fails with an error that names it without."""
    mine = authority.issue("me", client=True)
    with tls_host(authority.issue("127.0.0.1"), clients=authority.certificate) as url:
        known = ConnectionOptions(
            ca_file=authority.certificate, client_certificate=mine.certificate, client_key=mine.key
        )
        assert describe(url, known) == "fake"
        with pytest.raises(AuthError, match="client certificate"):
            describe(url, ConnectionOptions(ca_file=authority.certificate))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
def test_old_tls_is_refused(authority: Authority) -> None:
    """A host that speaks nothing newer than TLS 1.1 is not talked to."""
    options = ConnectionOptions(ca_file=authority.certificate)
    with (
        tls_host(authority.issue("127.0.0.1"), newest=ssl.TLSVersion.TLSv1_1) as url,
        pytest.raises(ConnectError, match="no version of TLS"),
    ):
        describe(url, options)
