"""What a host does not guarantee, in words for a person: `doctor` and `audit` say the same."""

from __future__ import annotations

from blackbox_ti.endpoint import Guarantees

__all__ = ["shortfalls"]


def shortfalls(guarantees: Guarantees) -> list[str]:
    """Return a sentence for each guarantee that a host does not give."""
    told = []
    if not guarantees.idempotency:
        told.append(
            "a lost reply cannot be asked for again: such a call counts as spent in full, and is asked and paid for "
            "anew within the cap"
        )
    if not guarantees.exact_cost:
        told.append(
            "the host does not say what a call cost: what is sent is counted and capped here, what is billed is known "
            "to the host alone"
        )
    if not guarantees.receipts:
        told.append("the host signs no receipts: the run's ledger is the only book, held against no other")
    return told
