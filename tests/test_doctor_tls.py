"""Handshakes with a server of the standard library's."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blackbox_ti.connection import ConnectionOptions
from blackbox_ti.doctor_tls import shake_hands
from blackbox_ti.errors import ConnectError
from tests.server_stub.certificates import Authority, Pair


@contextmanager
def listening(pair: Pair) -> Iterator[str]:
    """Yield the address of a socket that shakes hands once, with the certificate `pair`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            plain, _ = server.accept()
            with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as wrapped:
                wrapped.recv(1)

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"https://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_version_and_end_of_the_certificate_are_read(tmp_path: Path) -> None:
    """From a handshake that checks what any call checks."""
    authority = Authority(tmp_path, "authority")
    with listening(authority.issue("127.0.0.1")) as url:
        facts = shake_hands(url, ConnectionOptions(ca_file=authority.certificate))
    assert facts.version in {"TLSv1.2", "TLSv1.3"}
    assert 28 < facts.days_left(datetime.now(UTC)) < 31


def test_what_is_not_trusted_is_a_connect_error(tmp_path: Path) -> None:
    """Another authority's certificate, and a port nobody listens on."""
    with (
        listening(Authority(tmp_path, "authority").issue("127.0.0.1")) as url,
        pytest.raises(ConnectError, match="--ca-file"),
    ):
        shake_hands(url, ConnectionOptions(ca_file=Authority(tmp_path, "other").certificate))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectError):
        shake_hands(f"https://127.0.0.1:{port}", ConnectionOptions())
