"""Tests of the TLS files; the handshakes are in `tests/e2e/test_tls.py`."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from blackbox_ti.errors import InputError
from server_stub.settings import Settings
from server_stub.tls import certificate_der, server_context
from tests.server_stub.certificates import Authority


def test_without_files_there_is_no_tls() -> None:
    """No certificate in the settings means plain HTTP."""
    assert server_context(Settings()) is None


def test_the_context_is_strict(tmp_path: Path) -> None:
    """TLS 1.2 is the oldest version, and a client CA makes client certificates required unless told otherwise."""
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("127.0.0.1")
    files: dict[str, Any] = {"tls_cert": pair.certificate, "tls_key": pair.key}
    plain = server_context(Settings(**files))
    mutual = server_context(Settings(**files, tls_client_ca=authority.certificate))
    optional = server_context(Settings(**files, tls_client_ca=authority.certificate, tls_client_auth="optional"))
    assert plain is not None
    assert mutual is not None
    assert optional is not None
    assert plain.minimum_version is ssl.TLSVersion.TLSv1_2
    modes = [plain.verify_mode, mutual.verify_mode, optional.verify_mode]
    assert modes == [ssl.CERT_NONE, ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL]


@pytest.mark.parametrize("broken", ["certificate", "key"])
@pytest.mark.parametrize("content", [None, "", "nothing"])
def test_unusable_files_are_said_plainly(tmp_path: Path, broken: str, content: str | None) -> None:
    """A missing, empty or wrong file is an input error that names what is wanted, not a traceback."""
    pair = Authority(tmp_path, "authority").issue("127.0.0.1")
    path: Path = getattr(pair, broken)
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match="TLS files"):
        server_context(Settings(tls_cert=pair.certificate, tls_key=pair.key))


def test_a_file_without_a_certificate_is_refused(tmp_path: Path) -> None:
    """Only a PEM certificate can become a credential."""
    pair = Authority(tmp_path, "authority").issue("ada", client=True)
    assert certificate_der(pair.certificate.read_bytes())[:1] == b"\x30"
    with pytest.raises(InputError, match="no certificate"):
        certificate_der(pair.key.read_bytes())


def test_an_encrypted_key_is_refused_instead_of_asked_about(tmp_path: Path) -> None:
    """A key under a password ends in an input error; nothing waits at a terminal."""
    pair = Authority(tmp_path, "authority").issue("127.0.0.1")
    key = load_pem_private_key(pair.key.read_bytes(), None)
    locked = BestAvailableEncryption(b"password")
    pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    with pytest.raises(InputError, match="unencrypted"):
        server_context(Settings(tls_cert=pair.certificate, tls_key=pair.key))
