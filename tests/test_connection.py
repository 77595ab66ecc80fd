"""From options and environment to a connection: keys, TLS, proxies."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.connection import ConnectionOptions, checked_url, open_client, timeouts, tls_context
from blackbox_ti.errors import InputError


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("https://host.example/", "https://host.example"),
        ("https://host.example/base/", "https://host.example/base"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("http://localhost:80", "http://localhost"),
    ],
)
def test_good_addresses_lose_their_trailing_slash(given: str, address: str) -> None:
    """TLS anywhere and http on loopback are taken."""
    assert checked_url(given) == address


@pytest.mark.parametrize(
    "given",
    [
        "",
        "host.example",
        "ftp://host.example",
        "file:///etc/passwd",
        "https://",
        "https://user:secret@host.example",
        "https://host.example/?key=secret",
        "https://host.example/#x",
        "http://host.example",
        "http://127.0.0.1.example",
        "http://localhost.example",
        "http://10.0.0.1",
        "http://[::1",
    ],
)
def test_bad_addresses_are_input_errors_that_hold_no_secret(given: str) -> None:
    """Plain http off loopback and anything that could hold a key are refused without repeating it."""
    with pytest.raises(InputError) as caught:
        checked_url(given)
    assert "secret" not in str(caught.value)


def test_plain_http_can_be_allowed_on_purpose() -> None:
    """The option that says so lets http go anywhere."""
    assert checked_url("http://10.0.0.1:8000", allow_http=True) == "http://10.0.0.1:8000"


def test_the_client_tells_nothing_of_the_machine_and_follows_no_redirect() -> None:
    """The User-Agent names this package alone; a redirect is handed back, the environment not asked."""
    with open_client(ConnectionOptions(), httpx.MockTransport(lambda _: httpx.Response(302))) as client:
        assert client.headers["User-Agent"].startswith("blackbox-ti/")
        assert "ython" not in client.headers["User-Agent"]
        assert client.get("http://127.0.0.1/", headers={"Location": "http://other"}).status_code == 302
        assert client.trust_env is False


def test_tls_is_1_2_or_later_and_checks_names() -> None:
    """Old TLS, strange names and unknown authorities are refused."""
    context = tls_context(ConnectionOptions())
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    "options", [lambda path: ConnectionOptions(ca_file=path), lambda path: ConnectionOptions(client_certificate=path)]
)
def test_tls_files_that_cannot_be_used_are_input_errors(
    tmp_path: Path, options: Callable[[Path], ConnectionOptions]
) -> None:
    """A file that is missing or is no certificate is told before anything is sent."""
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    for path in (tmp_path / "missing.pem", broken):
        with pytest.raises(InputError, match="TLS files"):
            open_client(options(path))


def test_a_proxy_that_is_no_address_is_an_input_error() -> None:
    """A proxy's address is checked at once."""
    with pytest.raises(InputError, match="proxy"):
        open_client(ConnectionOptions(proxy="nonsense://proxy"))


def test_a_proxys_password_does_not_print() -> None:
    """Options can be logged without giving the proxy's credentials away."""
    assert "planted" not in repr(ConnectionOptions(proxy="http://user:planted@proxy:3128"))


def test_a_hosts_cookies_are_not_kept() -> None:
    """No host can mark a client and know it again."""
    seen: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(200, headers={"Set-Cookie": "mark=1; Path=/"})

    with open_client(ConnectionOptions(), httpx.MockTransport(answer)) as client:
        client.get("http://127.0.0.1/")
        client.get("http://127.0.0.1/")
    assert len(seen) == 2
    assert not any("cookie" in headers for headers in seen)


@given(st.floats(-10, 1000))
def test_no_step_of_an_attempt_outlasts_the_deadline(remaining: float) -> None:
    """Every timeout is what was set or what is left, whichever is less, and never none."""
    options = ConnectionOptions(connect_timeout=10, read_timeout=300, write_timeout=60)
    told = timeouts(options, remaining)
    left = max(0.001, remaining)
    assert (told.connect, told.read, told.write, told.pool) == (min(10, left), min(300, left), min(60, left), left)
