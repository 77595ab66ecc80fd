"""Checking the host's receipts: hash, signature and chain. Pure functions; each fault names its receipt.

What the signatures prove: the holder of the host's key stated this charge, for the request with this hash, after the
receipt before it; none of it was changed since, and none was left out of the chain shown. What they do not prove: that
the host did the work or did it well, that the key on the model card is the host's (trust it as far as the connection
it came over), or that the host shows everyone the same chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from blackbox_ti.replies import receipt_bytes
from blackbox_ti.wire import Receipt

__all__ = ["PROOF", "chain_faults", "order_faults", "seal_faults"]

PROOF: Final = (
    "The signatures prove that the host stated each charge, for the request with that hash and in that order, and that "
    "nothing was changed since. They do not prove that the host did the work, or that it shows everyone the same book. "
    "The ledger's own hashes find accidents and careless edits, not someone who rewrites all of it; that the host's "
    "receipts find."
)
_ZEROS: Final = "0" * 64


def seal_faults(receipts: Iterable[Receipt], public_key: str) -> list[str]:
    """Return the receipts whose hash or Ed25519 signature (RFC 8032) by `public_key` (raw, hex) does not hold."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    faults = []
    for receipt in receipts:
        content = receipt_bytes(receipt)
        if hashlib.sha256(content).hexdigest() != receipt.hash:
            faults.append(f"receipt {receipt.sequence} was changed: its hash does not hold")
        try:
            key.verify(bytes.fromhex(receipt.signature), content)
        except InvalidSignature:
            faults.append(f"receipt {receipt.sequence} is not signed by the host's key")
    return faults


def order_faults(receipts: Iterable[Receipt]) -> list[str]:
    """Return where receipts, which need not be all of an account's, contradict its one chain."""
    ordered = sorted(receipts, key=lambda receipt: receipt.sequence)
    faults = []
    for before, after in pairwise(ordered):
        if before.sequence == after.sequence:
            faults.append(f"receipt {after.sequence} exists twice")
        elif before.sequence + 1 == after.sequence and before.hash != after.previous:
            faults.append(f"receipt {after.sequence} does not follow receipt {before.sequence}")
    return faults


def chain_faults(receipts: Sequence[Receipt], head: str | None) -> list[str]:
    """Return where an account's whole chain breaks; `head` is the hash its last receipt must have, if known."""
    faults: list[str] = []
    previous = _ZEROS
    for number, receipt in enumerate(receipts, start=1):
        if receipt.sequence != number:
            return [*faults, f"receipt {number} is missing from the host's chain"]
        if receipt.previous != previous:
            faults.append(f"receipt {number} does not follow the one before it in the host's chain")
        previous = receipt.hash
    if head is not None and head != previous:
        faults.append("the host's chain does not end in the head it tells")
    return faults
