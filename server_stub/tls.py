"""TLS of the server: its certificate, and the client certificates it takes.

TLS 1.2 is the oldest version spoken (RFC 8996 retires the ones before).
"""

from __future__ import annotations

import ssl

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from blackbox_ti.errors import InputError
from server_stub.settings import Settings

__all__ = ["certificate_der", "server_context"]


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context that `settings` ask for, or None where they ask for none.

    Raises:
        InputError: a file is missing, or does not hold what it should.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=_no_password)
        if settings.tls_client_ca is not None:
            context.load_verify_locations(cafile=settings.tls_client_ca)
            required = settings.tls_client_auth == "required"
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    except (OSError, ValueError) as error:
        message = "the TLS files cannot be used: give PEM files of a certificate, its unencrypted key, and client CAs"
        raise InputError(f"{message} ({type(error).__name__})") from error
    return context


def _no_password() -> str:
    """Fail instead of asking on the terminal."""
    raise ValueError("the key is encrypted")


def certificate_der(pem: bytes) -> bytes:
    """Return a certificate as DER.

    Raises:
        InputError: there is no certificate in `pem`.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise InputError("the file holds no certificate in PEM form") from error
    return certificate.public_bytes(Encoding.DER)
