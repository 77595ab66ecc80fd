"""Three books held against each other: attempts on the wire, operations in the ledger, the host's receipts.

    ledger's chain    every row's hash                                    -> faults name the row
    receipts          hash, Ed25519 signature, order                      -> faults name the receipt
    operations        settled: a receipt that says the same; once only
                      unknown: settled by the host's receipts, or after an hour without one freed
    attempts          each under an operation; each settled reply came in one

`blackbox_ti.receipts` says what the signatures prove and what they do not; so does the printed report.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blackbox_ti.attempt import Attempt
from blackbox_ti.audit_report import AuditReport, empty_report, tabulate, waste_of
from blackbox_ti.budget import Cost, check_caps, cost_of
from blackbox_ti.connection_args import add_connection, connect
from blackbox_ti.errors import BudgetSpentError, LedgerError
from blackbox_ti.http_endpoint import HttpEndpoint
from blackbox_ti.ledger import Ledger, Operation
from blackbox_ti.receipts import chain_faults, order_faults, seal_faults
from blackbox_ti.run_folder import LEDGER_NAME
from blackbox_ti.shortfalls import shortfalls
from blackbox_ti.wire import ModelCard, Receipt

__all__ = ["HostBook", "add_parser", "audit", "fetch_host_book"]

_AT_WORK_SECONDS: Final = 3600.0


@dataclass(frozen=True)
class HostBook:
    """The account's whole chain of receipts as the host tells it, and the hash it says is the last."""

    receipts: Sequence[Receipt]
    head: str | None
    public_key: str | None


def fetch_host_book(endpoint: HttpEndpoint) -> HostBook:
    """Ask a host for the account's receipts; the head is asked first, so that charges made meanwhile do no harm."""
    card = endpoint.describe()
    usage = endpoint.usage()
    return HostBook(endpoint.receipts()[: usage.receipts], usage.head, card.receipt_public_key)


def audit(ledger: Ledger, host: HostBook | None = None) -> AuditReport:
    """Verify and reconcile a run's books; what the host's book settles is settled in the ledger.

    A ledger whose chain does not hold is not reconciled: the report names its broken rows and nothing else.

    Raises:
        LedgerError: the ledger is too damaged to be read.
    """
    broken = ledger.faults()
    if broken:
        return empty_report(broken)
    faults: list[str] = []
    settled = [] if host is None else _settle(ledger, host)
    operations = ledger.operations()
    attempts = ledger.attempts()
    card = ledger.model_card()
    receipts, unreadable = _own_receipts(operations)
    faults += unreadable
    faults += _receipt_faults(receipts, card)
    faults += _attempt_faults(operations, attempts, ledger.keys())
    faults += _cap_faults(ledger)
    if host is not None:
        faults += _host_faults(host, card) + _match_faults(operations, receipts, host, ledger.keys())
    guarantees = ledger.guarantees()
    open_ones = [operation for operation in operations if operation.state in {"reserved", "unknown"}]
    return AuditReport(
        endpoint=ledger.endpoint(),
        currency=card.prices.currency if card else "",
        faults=faults,
        unknown=[_unknown(o, host_checked=host is not None) for o in open_ones] if guarantees.idempotency else [],
        settled=settled,
        lines=tabulate(operations),
        total=sum((o.cost for o in operations if o.state == "settled"), Cost()),
        unanswered=sum((o.cost for o in operations if o.state == "settled" and not o.answered), Cost()),
        reserved=sum((o.cost for o in open_ones), Cost()),
        waste=waste_of([attempt for _, attempt in attempts]),
        host_checked=host is not None,
        other_receipts=_others(host, ledger.keys()),
        lost=[] if guarantees.idempotency else [_lost(o) for o in operations if _is_lost(o)],
        not_guaranteed=shortfalls(guarantees),
    )


def _settle(ledger: Ledger, host: HostBook) -> list[str]:
    """Settle what is unknown by the host's receipts; return what was done."""
    by_key = {receipt.idempotency_key: receipt for receipt in host.receipts}
    done = []
    for operation in ledger.operations():
        if operation.state not in {"reserved", "unknown"}:
            continue
        receipt = by_key.get(operation.idempotency_key)
        if receipt is not None:
            ledger.settle(operation, charged=cost_of(receipt), reply=None, receipt=receipt.model_dump_json())
            done.append(f"{operation.name}: charged, by receipt {receipt.sequence}; its reply can still be asked for")
        elif ledger.idle_seconds(operation) >= _AT_WORK_SECONDS:
            ledger.refuse(operation, "the host has no receipt for it")
            done.append(f"{operation.name}: not charged, the host has no receipt for it")
    return done


def _own_receipts(operations: Sequence[Operation]) -> tuple[dict[str, Receipt], list[str]]:
    """Return the receipts in the ledger by operation name, and the operations whose receipt cannot be read."""
    receipts, faults = {}, []
    for operation in operations:
        if operation.receipt is None:
            continue
        try:
            receipts[operation.name] = Receipt.model_validate_json(operation.receipt)
        except ValueError:
            faults.append(f"the receipt of {operation.name} (operations row {operation.entry}) cannot be read")
    by_name = {operation.name: operation for operation in operations}
    return receipts, faults + [_disagreement(by_name[n]) for n, r in receipts.items() if not _agrees(by_name[n], r)]


def _agrees(operation: Operation, receipt: Receipt) -> bool:
    told = (receipt.idempotency_key, receipt.request_sha256, cost_of(receipt))
    return told == (operation.idempotency_key, operation.request_sha256, operation.cost)


def _disagreement(operation: Operation) -> str:
    return f"{operation.name} (operations row {operation.entry}) and its receipt disagree on the key, request or cost"


def _receipt_faults(receipts: dict[str, Receipt], card: ModelCard | None) -> list[str]:
    if card is None or card.receipt_public_key is None:
        return [f"{name} has a receipt, but no key to check it is known" for name in receipts]
    wrong_model = [name for name, receipt in receipts.items() if receipt.fingerprint != card.fingerprint]
    faults = [f"the receipt of {name} is for another model" for name in wrong_model]
    return [*faults, *seal_faults(receipts.values(), card.receipt_public_key), *order_faults(receipts.values())]


def _attempt_faults(
    operations: Sequence[Operation], attempts: Sequence[tuple[int, Attempt]], keys: dict[str, str]
) -> list[str]:
    """Return attempts under no operation, and settled replies that came in no attempt."""
    charged = [(entry, a) for entry, a in attempts if a.idempotency_key is not None]
    strays = [entry for entry, a in charged if a.idempotency_key not in keys]
    faults = [f"attempts row {entry} belongs to no operation" for entry in strays]
    done = {a.idempotency_key for _, a in charged if a.effect == "done"}
    for operation in operations:
        answered = operation.state == "settled" and operation.answered
        if charged and answered and operation.idempotency_key not in done:
            faults.append(f"{operation.name} (operations row {operation.entry}) has a reply that no attempt brought")
    return faults


def _cap_faults(ledger: Ledger) -> list[str]:
    try:
        check_caps(ledger.caps(), ledger.committed(), 0.0, Cost())
    except BudgetSpentError as error:
        return [f"the run went over its cap: {error}"]
    return []


def _host_faults(host: HostBook, card: ModelCard | None) -> list[str]:
    """Return what is wrong with the host's chain by itself, and with its key."""
    key = card.receipt_public_key if card is not None else host.public_key
    if key is None:
        return ["the host signs no receipts; what it charged cannot be checked"]
    faults = [] if key == host.public_key else ["the host signs with another key than when the run began"]
    return [*faults, *seal_faults(host.receipts, key), *chain_faults(host.receipts, host.head)]


def _match_faults(
    operations: Sequence[Operation], receipts: dict[str, Receipt], host: HostBook, keys: dict[str, str]
) -> list[str]:
    """Return where the ledger's operations and the host's receipts do not match one to one."""
    told: defaultdict[str, list[Receipt]] = defaultdict(list)
    for receipt in host.receipts:
        if receipt.idempotency_key in keys:
            told[keys[receipt.idempotency_key]].append(receipt)
    faults = []
    for operation in operations:
        theirs, ours = told[operation.name], receipts.get(operation.name)
        where = f"{operation.name} (operations row {operation.entry})"
        if len(theirs) > 1:
            faults.append(f"{where} was charged {len(theirs)} times, receipts {[r.sequence for r in theirs]}")
        elif operation.state == "settled" and (not theirs or ours is None or theirs[0].hash != ours.hash):
            faults.append(f"{where} is settled here, but the host's receipt is missing or another")
        elif operation.state == "refused" and theirs:
            faults.append(f"{where} was taken for not charged, but the host has receipt {theirs[0].sequence}")
    return faults


def _unknown(operation: Operation, *, host_checked: bool) -> str:
    advice = "it may still be at work; audit again in an hour" if host_checked else "give --endpoint to settle it"
    return f"{operation.name} ({operation.cost.forwards} forwards, {operation.state}): {advice}, or resume the run"


def _is_lost(operation: Operation) -> bool:
    return operation.state != "refused" and not operation.answered


def _lost(operation: Operation) -> str:
    return f"{operation.name} ({operation.cost.forwards} forwards, {operation.state})"


def _others(host: HostBook | None, keys: dict[str, str]) -> int:
    return 0 if host is None else sum(receipt.idempotency_key not in keys for receipt in host.receipts)


def add_parser(subparsers: Any) -> None:
    """Add `audit DIR` to the command line's subparsers; its `run` takes the parsed arguments, returns an exit code."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "audit",
        help="verify a run's books and say what was spent on what",
        description=sys.modules[__name__].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", metavar="DIR", type=Path, help="the run's folder")
    add_connection(parser, required=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    """Audit and print; 0 only where everything matches."""
    with Ledger(arguments.dir / LEDGER_NAME, create=False) as ledger:
        report = audit(ledger, _host_book(arguments))
    sys.stdout.write((report.to_json() if arguments.json else report.to_text()) + "\n")
    return 0 if report.ok else LedgerError.exit_code


def _host_book(arguments: argparse.Namespace) -> HostBook | None:
    if arguments.endpoint is None:
        return None
    endpoint = connect(arguments)
    try:
        return fetch_host_book(endpoint) if isinstance(endpoint, HttpEndpoint) else None
    finally:
        endpoint.close()
