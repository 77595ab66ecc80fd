"""The way to a host: checked addresses, TLS, proxies and timeouts, as an httpx client."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import version
from pathlib import Path

import httpx

from blackbox_ti.errors import InputError

__all__ = ["ConnectionOptions", "checked_url", "is_loopback", "open_client", "timeouts", "tls_context"]


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """TLS files (PEM), proxy, and timeouts in seconds.

    `ca_file` replaces the system's authorities. `trust_env` takes proxies from the environment. `allow_http` permits
    plain http to a host that is not on loopback: keys, embeddings and pictures can then be read on the way.
    """

    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    proxy: str | None = field(default=None, repr=False)
    trust_env: bool = False
    allow_http: bool = False
    connect_timeout: float = 10.0
    read_timeout: float = 300.0
    write_timeout: float = 60.0
    max_connections: int = 32


def timeouts(options: ConnectionOptions, remaining: float) -> httpx.Timeout:
    """Return the timeouts of an attempt that may take no longer than `remaining` seconds in any of its steps."""
    remaining = max(0.001, remaining)
    return httpx.Timeout(
        connect=min(options.connect_timeout, remaining),
        read=min(options.read_timeout, remaining),
        write=min(options.write_timeout, remaining),
        pool=remaining,
    )


def checked_url(url: str, *, allow_http: bool = False) -> str:
    """Return a host's address without a trailing slash.

    Raises:
        InputError: it is no http or https address, holds a user name, query or fragment, or is plain http to a host
            that is not on loopback.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InputError("the endpoint's address cannot be read; it looks like https://host:port") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise InputError("the endpoint's address must begin with https:// (or http:// on this machine)")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise InputError("the endpoint's address must hold no user name, query or fragment; keys are given apart")
    if parsed.scheme == "http" and not allow_http and not is_loopback(parsed.host):
        raise InputError(f"http to {parsed.host} would send keys and pictures in the clear; use https")
    return str(parsed).rstrip("/")


def open_client(
    options: ConnectionOptions, http: httpx.BaseTransport | None = None, *, tls: bool = True
) -> httpx.Client:
    """Return a client that follows no redirects and keeps no cookies; `http` replaces the sockets.

    Without `tls` no authority is read from disk, and so none is trusted should TLS come up after all.

    Raises:
        InputError: a TLS file or the proxy's address cannot be used.
    """
    try:
        client = httpx.Client(
            transport=http,
            verify=tls_context(options) if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            proxy=options.proxy,
            trust_env=options.trust_env,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=options.max_connections),
            headers={"User-Agent": f"blackbox-ti/{version('blackbox-ti')}"},
        )
        client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        raise InputError("the proxy's address cannot be used") from error
    return client


def tls_context(options: ConnectionOptions) -> ssl.SSLContext:
    """Return a context of TLS 1.2 or later that checks names, with the CA and client certificate given.

    Raises:
        InputError: a file cannot be read or does not hold what it should.
    """
    try:
        context = ssl.create_default_context(cafile=None if options.ca_file is None else str(options.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if options.client_certificate is not None:
            context.load_cert_chain(str(options.client_certificate), options.client_key and str(options.client_key))
    except OSError as error:
        raise InputError(f"the TLS files cannot be used: {type(error).__name__}") from error
    return context


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
