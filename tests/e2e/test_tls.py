"""Real TLS handshakes with a real server process, with certificates made on the spot."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server_stub.accounts import Accounts
from server_stub.database import Books
from server_stub.tls import certificate_der
from tests.e2e.server_processes import ServerProcess, fake_server
from tests.server_stub.certificates import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Return the authority that clients of these tests trust."""
    return Authority(tmp_path, "authority")


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    """Yield the accounts of the server of these tests."""
    (tmp_path / "state").mkdir()
    books = Books(f"sqlite:///{tmp_path / 'state' / 'books.sqlite'}")
    yield Accounts(books)
    books.close()


def trusting(authority: Authority, client: Pair | None = None) -> ssl.SSLContext:
    """Return a client's context that trusts `authority` and shows the certificate `client`."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    return context


def get(server: ServerProcess, context: ssl.SSLContext, **headers: str) -> httpx.Response:
    """Ask for the model card."""
    with server.client(verify=context, headers=headers) as client:
        return client.get("/v1/model")


def tls_server(folder: Path, pair: Pair, **settings: Any) -> Any:
    """Return a server that shows the certificate `pair`."""
    return fake_server(folder, tls_cert=str(pair.certificate), tls_key=str(pair.key), **settings)


def test_a_right_certificate_is_served_over_tls_12_or_later(tmp_path: Path, authority: Authority) -> None:
    """The printed address is https, both TLS versions work, and 1.1 is refused."""
    with tls_server(tmp_path, authority.issue("127.0.0.1")) as server:
        assert server.url.startswith("https://127.0.0.1:")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = trusting(authority)
            context.minimum_version = context.maximum_version = version
            reply = get(server, context)
            assert (reply.status_code, "max-age" in reply.headers["strict-transport-security"]) == (200, True)
        old = trusting(authority)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError):
            get(server, old)
        with httpx.Client() as plain, pytest.raises(httpx.TransportError):
            plain.get(server.url.replace("https", "http"))


def test_a_wrong_name_authority_or_date_is_found_out(tmp_path: Path, authority: Authority) -> None:
    """A certificate for another name, one that expired, and one of another authority all fail the handshake."""
    cases = {
        "IP address mismatch": authority.issue("127.0.0.9"),
        "certificate has expired": authority.issue("127.0.0.1", expired=True),
        "unable to get local issuer": Authority(tmp_path, "other").issue("127.0.0.1"),
    }
    for reason, pair in cases.items():
        with tls_server(tmp_path, pair) as server, pytest.raises(httpx.ConnectError, match=reason):
            get(server, trusting(authority))


def test_a_client_certificate_acts_for_its_account(tmp_path: Path, authority: Authority, accounts: Accounts) -> None:
    """Under mutual TLS a registered certificate is its account, until revoked; others pass TLS but are nobody."""
    known, unknown = (authority.issue(name, client=True) for name in ("ada", "eve"))
    identifier = accounts.add_certificate("ada", certificate_der(known.certificate.read_bytes()))
    own = authority.issue("127.0.0.1")
    with tls_server(tmp_path, own, tls_client_ca=str(authority.certificate)) as server:
        with server.client(verify=trusting(authority, known)) as client:
            assert client.get("/v1/usage").json()["account"] == "ada"
            accounts.revoke(identifier)
            assert client.get("/v1/usage").status_code == 401
        assert get(server, trusting(authority, unknown)).status_code == 401


def test_without_a_client_certificate_of_the_right_authority_there_is_no_handshake(
    tmp_path: Path, authority: Authority, accounts: Accounts
) -> None:
    """No certificate, one of another authority, an expired one and a server's own all end in a refused handshake."""
    _, key = accounts.create_key("ada")
    own = authority.issue("127.0.0.1")
    bad = [
        None,
        Authority(tmp_path, "other").issue("ada", client=True),
        authority.issue("ada", client=True, expired=True),
        own,
    ]
    with tls_server(tmp_path, own, tls_client_ca=str(authority.certificate)) as server:
        for pair in bad:
            with pytest.raises(httpx.TransportError):
                get(server, trusting(authority, pair), Authorization=f"Bearer {key}")


def test_with_optional_client_certificates_a_key_does_too(
    tmp_path: Path, authority: Authority, accounts: Accounts
) -> None:
    """Where client certificates are optional a Bearer key works without one, and counts before one."""
    certificate = authority.issue("ada", client=True)
    accounts.add_certificate("ada", certificate_der(certificate.certificate.read_bytes()))
    _, key = accounts.create_key("bob")
    own = authority.issue("127.0.0.1")
    options = {"tls_client_ca": str(authority.certificate), "tls_client_auth": "optional"}
    with tls_server(tmp_path, own, **options) as server:
        assert get(server, trusting(authority)).status_code == 401
        assert get(server, trusting(authority), Authorization=f"Bearer {key}").status_code == 200
        with server.client(verify=trusting(authority, certificate)) as client:
            assert client.get("/v1/usage").json()["account"] == "ada"
            assert client.get("/v1/usage", headers={"Authorization": f"Bearer {key}"}).json()["account"] == "bob"
            assert client.get("/v1/usage", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_a_header_cannot_stand_for_a_certificate(tmp_path: Path, authority: Authority, accounts: Accounts) -> None:
    """What proxies send about certificates and addresses is ignored: it could come from anyone."""
    pair = authority.issue("ada", client=True)
    accounts.add_certificate("ada", certificate_der(pair.certificate.read_bytes()))
    forged = {"X-Client-Cert": pair.certificate.read_text().replace("\n", " ").strip(), "X-Forwarded-For": "127.0.0.1"}
    with tls_server(tmp_path, authority.issue("127.0.0.1")) as server:
        assert get(server, trusting(authority), **forged).status_code == 401
