"""What a host's TLS is: version and certificate, read from a handshake of its own."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from blackbox_ti.connection import ConnectionOptions, tls_context
from blackbox_ti.errors import ConnectError

__all__ = ["TlsFacts", "shake_hands"]


@dataclass(frozen=True)
class TlsFacts:
    """The protocol version agreed on, and the moment the host's certificate ends."""

    version: str
    expires: datetime

    def days_left(self, now: datetime) -> float:
        """Return how many days the certificate is good for."""
        return (self.expires - now).total_seconds() / 86_400


def shake_hands(url: str, options: ConnectionOptions, *, timeout: float = 10.0) -> TlsFacts:
    """Return the facts of a handshake with the host at `url` (https), its certificate checked as any call checks it.

    Raises:
        ConnectError: there is no connection, or the certificate is not accepted.
    """
    parsed = httpx.URL(url)
    try:
        with (
            socket.create_connection((parsed.host, parsed.port or 443), timeout=timeout) as plain,
            tls_context(options).wrap_socket(plain, server_hostname=parsed.host) as wrapped,
        ):
            certificate = wrapped.getpeercert() or {}
            version = wrapped.version() or "unknown"
    except (OSError, ssl.SSLError) as error:
        raise ConnectError(f"no TLS connection ({type(error).__name__}); check address and --ca-file") from error
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    return TlsFacts(version, datetime.fromtimestamp(ends, tz=UTC))
