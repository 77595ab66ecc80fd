"""Receipts: the host's signed word for every charge, chained by hash per account.

A receipt proves that the host made this statement, in this order, and never changed or left out one before it. It
does not prove that the host did the work, nor that it shows everyone the same chain.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blackbox_ti.wire import Receipt, ReceiptsReply
from server_stub.database import Books, accounts, receipts
from server_stub.spending import Amount

__all__ = ["Order", "Signer", "append", "canonical", "head", "head_in", "page", "verify"]

_SEALS = ("hash", "signature")


@dataclass(frozen=True)
class Order:
    """What a charge was for."""

    account_id: int
    account: str
    key: str
    route: str
    request_sha256: str
    model: str
    fingerprint: str
    currency: str


class Signer:
    """An Ed25519 key (RFC 8032) that signs receipts."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def at(cls, path: Path) -> Self:
        """Return the signer whose raw key is in the file at `path`, made with mode 0600 where there is none.

        Raises:
            ValueError: the file does not hold 32 bytes, or others than its owner may read it.
        """
        _make(path)
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise ValueError(f"{path} can be read by others: chmod 600 it, or move it away to have a new key made")
        raw = path.read_bytes()
        if len(raw) != 32:
            raise ValueError(f"{path} is not a raw Ed25519 key of 32 bytes: restore it, or move it away")
        return cls.at_seed(raw)

    @classmethod
    def at_seed(cls, seed: bytes) -> Self:
        """Return the signer whose raw key is the 32 bytes `seed`."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def public_key(self) -> str:
        """The raw public key in hex, as the model card carries it."""
        return self._key.public_key().public_bytes_raw().hex()

    def derived(self, purpose: bytes) -> bytes:
        """Return a secret of 32 bytes for another purpose, which tells nothing of the key (HKDF, RFC 5869)."""
        return HKDF(hashes.SHA256(), 32, salt=None, info=purpose).derive(self._key.private_bytes_raw())

    def seal(self, fields: dict[str, Any]) -> Receipt:
        """Return the receipt of `fields`, hashed and signed."""
        text = canonical(fields)
        seals = {"hash": hashlib.sha256(text).hexdigest(), "signature": self._key.sign(text).hex()}
        return Receipt.model_validate(fields | seals)


def _make(path: Path) -> None:
    """Write a new key to `path` unless there is one; of several servers starting at once, one wins."""
    if path.exists():
        return
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(Ed25519PrivateKey.generate().private_bytes_raw())
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


def canonical(fields: dict[str, Any]) -> bytes:
    """Return the bytes that are hashed and signed: JSON of all fields but the seals, sorted, no spaces, UTF-8."""
    unsealed = {name: value for name, value in fields.items() if name not in _SEALS}
    return json.dumps(unsealed, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def append(
    connection: sa.Connection, row: sa.Row[Any], signer: Signer, *, order: Order, amount: Amount, at: float
) -> Receipt:
    """Add the receipt of a charge to the chain of the account whose locked row is `row`, and return it."""
    issued = datetime.fromtimestamp(at, UTC)
    receipt = signer.seal(
        {
            "sequence": row.sequence + 1,
            "account": order.account,
            "idempotency_key": order.key,
            "request_sha256": order.request_sha256,
            "route": order.route,
            "fingerprint": order.fingerprint,
            "forwards": amount.forwards,
            "queries": amount.queries,
            "price_micros": amount.price_micros,
            "currency": order.currency,
            "issued_at": issued.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "previous": row.head,
        }
    )
    values = {
        "account_id": order.account_id,
        "sequence": receipt.sequence,
        "model": order.model,
        "day": issued.date().isoformat(),
        "document": receipt.model_dump_json(),
        **amount.__dict__,
    }
    connection.execute(sa.insert(receipts).values(values))
    mine = sa.update(accounts).where(accounts.c.id == order.account_id)
    connection.execute(mine.values(sequence=receipt.sequence, head=receipt.hash))
    return receipt


def verify(receipt: Receipt, public_key: str) -> bool:
    """Return whether a receipt's hash is its own and its signature is by `public_key` (raw, in hex)."""
    text = canonical(receipt.model_dump())
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(receipt.signature), text)
    except InvalidSignature:
        return False
    return hashlib.sha256(text).hexdigest() == receipt.hash


def page(books: Books, account_id: int, *, after: int, limit: int) -> ReceiptsReply:
    """Return up to `limit` of the account's receipts with a sequence above `after`, in order."""
    mine = (receipts.c.account_id == account_id) & (receipts.c.sequence > after)
    query = sa.select(receipts.c.document).where(mine).order_by(receipts.c.sequence).limit(limit + 1)
    with books.read() as connection:
        found = [Receipt.model_validate_json(text) for text in connection.execute(query).scalars()]
    shown = found[:limit]
    return ReceiptsReply(receipts=shown, next_after=shown[-1].sequence if len(found) > limit else None)


def head(books: Books, account_id: int) -> tuple[int, str]:
    """Return the number of the account's receipts and the hash of the last, 64 zeros where there is none."""
    with books.read() as connection:
        return head_in(connection, account_id)


def head_in(connection: sa.Connection, account_id: int) -> tuple[int, str]:
    """Return what `head` does, as this transaction sees it."""
    query = sa.select(accounts.c.sequence, accounts.c.head).where(accounts.c.id == account_id)
    row = connection.execute(query).one()
    return int(row.sequence), str(row.head)
