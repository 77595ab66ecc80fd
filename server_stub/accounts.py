"""Accounts and their credentials: API keys and client certificates, with scopes, expiry and revocation.

A key is `bti_<id>_<secret>`, the secret 256 random bits; the books hold the id and the SHA-256 of the whole key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa

from server_stub.database import Books, accounts, credentials

__all__ = ["LOCAL_ACCOUNT", "Accounts", "Credential", "Principal", "Scope"]

LOCAL_ACCOUNT: Final = "local"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_KEY: Final = re.compile(r"bti_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
_NO_DIGEST: Final = "0" * 64


class Scope(StrEnum):
    """What a key may do; `metrics` is for the operator's monitoring and is given by name only."""

    LOSS = "loss"
    IMAGES = "images"
    VOCABULARY = "vocabulary"
    USAGE = "usage"
    AUDIT = "audit"
    METRICS = "metrics"


USER_SCOPES: Final = frozenset(Scope) - {Scope.METRICS}


@dataclass(frozen=True)
class Principal:
    """Who a request is from: the account, what it may do, and the credential it showed (null for the local account)."""

    account_id: int
    account: str
    scopes: frozenset[Scope]
    credential: str | None = None


@dataclass(frozen=True)
class Credential:
    """A credential as the host may list it; times are seconds since 1970."""

    id: str
    account: str
    kind: str
    scopes: tuple[Scope, ...]
    created_at: float
    expires_at: float | None
    revoked_at: float | None


class Accounts:
    """The accounts in `books`; `clock` gives seconds since 1970."""

    def __init__(self, books: Books, *, clock: Callable[[], float] = time.time) -> None:
        self._books = books
        self._clock = clock

    def ensure(self, name: str) -> int:
        """Return the id of the account `name`, made if it is new.

        Raises:
            ValueError: the name is not 1 to 64 letters, digits, dots, dashes, underscores or at-signs.
        """
        if not _NAME.fullmatch(name):
            raise ValueError("an account's name is 1 to 64 of A-Z a-z 0-9 . _ @ -, beginning with a letter or digit")
        with self._books.write() as connection:
            found = connection.execute(sa.select(accounts.c.id).where(accounts.c.name == name)).scalar()
            if found is not None:
                return int(found)
            row = {"name": name, "created_at": self._clock(), "sequence": 0, "head": _NO_DIGEST}
            made = connection.execute(sa.insert(accounts).values(row)).inserted_primary_key
            assert made is not None
            return int(made[0])

    def local(self) -> Principal:
        """Return the account of a host without keys."""
        return Principal(self.ensure(LOCAL_ACCOUNT), LOCAL_ACCOUNT, frozenset(Scope))

    def create_key(
        self, account: str, *, scopes: Iterable[Scope] = USER_SCOPES, expires_at: float | None = None
    ) -> tuple[str, str]:
        """Return the id and the text of a new key; the text is kept nowhere."""
        identifier = secrets.token_hex(8)
        key = f"bti_{identifier}_{secrets.token_urlsafe(32)}"
        self._add(account, scopes, id=identifier, kind="key", digest=_digest(key.encode()), expires_at=expires_at)
        return identifier, key

    def add_certificate(
        self, account: str, der: bytes, *, scopes: Iterable[Scope] = USER_SCOPES, expires_at: float | None = None
    ) -> str:
        """Let the holder of a client certificate (DER) act for `account`; return the credential's id.

        Raises:
            ValueError: the certificate already is a credential.
        """
        identifier = secrets.token_hex(8)
        try:
            self._add(account, scopes, id=identifier, kind="certificate", digest=_digest(der), expires_at=expires_at)
        except sa.exc.IntegrityError as error:
            raise ValueError("that certificate already belongs to an account; revoke it or use another") from error
        return identifier

    def _add(self, account: str, scopes: Iterable[Scope], **columns: str | float | None) -> None:
        row = {
            "account_id": self.ensure(account),
            "scopes": ",".join(sorted(scopes)),
            "created_at": self._clock(),
            **columns,
        }
        with self._books.write() as connection:
            connection.execute(sa.insert(credentials).values(row))

    def revoke(self, identifier: str) -> bool:
        """End a credential from now on; return whether there was one of that id."""
        change = sa.update(credentials).where(credentials.c.id == identifier)
        with self._books.write() as connection:
            ended = sa.func.coalesce(credentials.c.revoked_at, self._clock())
            return connection.execute(change.values(revoked_at=ended)).rowcount > 0

    def list(self) -> list[Credential]:
        """Return all credentials, the oldest first."""
        query = sa.select(credentials, accounts.c.name).join(accounts).order_by(credentials.c.created_at)
        with self._books.read() as connection:
            return [_credential(row) for row in connection.execute(query)]

    def guarded(self) -> bool:
        """Return whether a credential was ever made, so that strangers are refused, also once all are revoked."""
        with self._books.read() as connection:
            return connection.execute(sa.select(credentials.c.id).limit(1)).first() is not None

    def authenticate_key(self, key: str) -> Principal | None:
        """Return whose key it is, or None where it is unknown, revoked or expired."""
        match = _KEY.fullmatch(key)
        row = self._find(credentials.c.id == match[1]) if match else None
        known = row.digest if row is not None and row.kind == "key" else _NO_DIGEST
        matches = hmac.compare_digest(_digest(key.encode()), known)
        return self._principal(row) if row is not None and matches else None

    def authenticate_certificate(self, der: bytes) -> Principal | None:
        """Return whose client certificate it is, or None where it is unknown, revoked or expired."""
        row = self._find(sa.and_(credentials.c.digest == _digest(der), credentials.c.kind == "certificate"))
        return self._principal(row) if row is not None else None

    def _find(self, condition: sa.ColumnElement[bool]) -> sa.Row[Any] | None:
        query = sa.select(credentials, accounts.c.name).join(accounts).where(condition)
        with self._books.read() as connection:
            return connection.execute(query).first()

    def _principal(self, row: sa.Row[Any]) -> Principal | None:
        expired = row.expires_at is not None and row.expires_at <= self._clock()
        if expired or row.revoked_at is not None:
            return None
        return Principal(row.account_id, row.name, frozenset(_scopes(row.scopes)), row.id)


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _scopes(text: str) -> tuple[Scope, ...]:
    return tuple(Scope(part) for part in text.split(",") if part)


def _credential(row: sa.Row[Any]) -> Credential:
    return Credential(row.id, row.name, row.kind, _scopes(row.scopes), row.created_at, row.expires_at, row.revoked_at)
