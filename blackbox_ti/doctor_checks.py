"""The checks of a probe, each a small function of what was asked and answered.

A check returns a `Finding`; what it cannot find out it raises, and whoever runs the checks turns that into a finding
too, so that no check keeps the others from running.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.attempt import Attempt
from blackbox_ti.doctor_noise import Spread, samples_needed, spread_of
from blackbox_ti.doctor_report import Finding, Recommendation, Status
from blackbox_ti.doctor_tls import TlsFacts
from blackbox_ti.drift import precision, relative_change
from blackbox_ti.endpoint import Guarantees
from blackbox_ti.errors import AuthError, BlackboxTIError
from blackbox_ti.shortfalls import shortfalls
from blackbox_ti.wire import PROTOCOL_VERSION, ImagesReply, LossReply, ModelCard, decode_tensor

__all__ = [
    "auth",
    "batch",
    "batch_mates",
    "card_findings",
    "determinism",
    "half_precision",
    "idempotency",
    "latency",
    "noise",
    "prices",
    "promises",
    "recommend",
    "retry_after",
    "table_of",
    "tls",
]

Answer = LossReply | ImagesReply

_SOON_DAYS: Final = 14.0
_POPSIZE: Final = 12
_BUSY: Final = (429, 503)


def card_findings(card: ModelCard) -> list[Finding]:
    """Return what the model card says: protocol, model, dimensions, limits."""
    spoken = card.protocol_version == PROTOCOL_VERSION
    encoders = ", ".join(f"{e.name} {e.dim}" for e in card.encoders)
    offered = " and ".join(card.objectives)
    mode = card.reply_mode + (f" to {card.reply_digits} digits" if card.reply_mode == "rounded" else "")
    limits = card.limits
    return [
        Finding("protocol", Status.OK if spoken else Status.BAD, f"version {card.protocol_version}"),
        Finding("model", Status.OK, f"{card.model} ({card.family}), fingerprint {card.fingerprint[:12]}"),
        Finding(
            "dimensions", Status.OK, f"{encoders}; {card.resolution} pixels", {e.name: e.dim for e in card.encoders}
        ),
        Finding("objectives", Status.OK if offered else Status.BAD, f"{offered or 'none'}; losses come {mode}"),
        Finding(
            "limits",
            Status.OK,
            f"a request holds {limits.max_candidates} candidates, {limits.max_samples} samples, {limits.max_forwards} "
            "forwards",
            limits.model_dump(),
        ),
    ]


def tls(facts: TlsFacts, now: datetime) -> Finding:
    """Judge a handshake: a certificate about to end is a limit."""
    days = facts.days_left(now)
    told = f"{facts.version}; certificate good for {days:.0f} days, until {facts.expires:%Y-%m-%d}"
    return Finding(
        "tls", Status.OK if days >= _SOON_DAYS else Status.LIMIT, told, {"version": facts.version, "days": days}
    )


def auth(ask_as_stranger: Callable[[], ModelCard], *, loopback: bool) -> Finding:
    """Judge what a request without a key gets: a refusal, unless the host is on this machine alone."""
    try:
        ask_as_stranger()
    except AuthError:
        return Finding("auth", Status.OK, "a request without a key is refused")
    except BlackboxTIError as error:
        return Finding("auth", Status.SKIPPED, f"a request without a key had no answer: {error}")
    if loopback:
        return Finding("auth", Status.OK, "no key is needed on this machine")
    return Finding("auth", Status.LIMIT, "a request without a key is answered: anyone can spend there")


def half_precision(answer: Answer) -> Finding:
    """Say that embeddings may travel as float16; without that they travel as float32, as the other questions did."""
    works = not answer.rejected
    return Finding(
        "dtype", Status.OK, "float32 and float16 tensors are taken" if works else "float32 tensors are taken"
    )


def determinism(first: Answer, again: Answer, card: ModelCard) -> Finding:
    """Judge two answers to the same question under two keys."""
    return _sameness("determinism", "the same question", first, again, card)


def batch_mates(alone: Answer, among: Answer, card: ModelCard) -> Finding:
    """Judge a candidate's answer alone against its answer among others: `among` holds it first."""
    return _sameness("batch mates", "a candidate alone and among others", alone, among, card)


def _sameness(check: str, what: str, left: Answer, right: Answer, card: ModelCard) -> Finding:
    if isinstance(left, ImagesReply) or isinstance(right, ImagesReply):
        assert isinstance(left, ImagesReply)
        assert isinstance(right, ImagesReply)
        if left.images[0] == right.images[0]:
            return Finding(check, Status.OK, f"{what}: the same picture, byte for byte")
        return Finding(check, Status.LIMIT, f"{what}: other bytes; scores will wobble")
    one, other = table_of(left), table_of(right)
    if one is None or other is None:
        same = left.ranking == right.ranking
        return Finding(check, Status.OK if same else Status.LIMIT, f"{what}: {'the same' if same else 'another'} order")
    change = relative_change(one[0], other[0])
    told = f"{what}: losses differ by {change:.1e} of their size" if change else f"{what}: the same bits"
    return Finding(check, Status.OK if change <= precision(card) else Status.LIMIT, told, {"drift": change})


def table_of(answer: Answer) -> NDArray[np.float64] | None:
    """Return the losses (B, n) of an answer, or None where it holds none."""
    if isinstance(answer, ImagesReply) or answer.losses is None or not answer.candidates:
        return None
    return decode_tensor(answer.losses).astype(np.float64)


def noise(answer: Answer, *, of_vocabulary: bool) -> tuple[Finding, Spread | None]:
    """Judge how well losses tell a few words apart, and say how many samples that takes."""
    table = table_of(answer)
    if table is None or min(table.shape) < 2:
        return Finding("noise", Status.SKIPPED, "the host tells no losses to measure it by"), None
    spread = spread_of(table)
    words = "words" if of_vocabulary else "made-up words"
    told = (
        f"spread between {words} {spread.words:.2g}, between samples {spread.samples:.2g}, left over "
        f"{spread.residual:.2g}: {samples_needed(spread)} samples a candidate"
    )
    data = {"words": spread.words, "samples": spread.samples, "residual": spread.residual}
    return Finding("noise", Status.OK if spread.words > 0 else Status.LIMIT, told, data), spread


def idempotency(
    first: Answer, repeat: Answer, attempts: Sequence[Attempt], charged: int | None, promised: Guarantees
) -> Finding:
    """Judge the same request sent twice under one key: `charged` is what the host's book went up by, in forwards.

    `attempts` are those of the second time.
    """
    if not promised.idempotency:
        return Finding("idempotency", Status.LIMIT, "not promised: a lost reply counts as spent, and is asked anew")
    once = first.charge.forwards
    receipts = (first.charge.receipt, repeat.charge.receipt)
    same_receipt = receipts[0] is not None and receipts[0] == receipts[1]
    if any(a.replayed for a in attempts) or same_receipt or charged == once:
        return Finding("idempotency", Status.OK, "the same key twice is charged once")
    if charged is None:
        return Finding("idempotency", Status.LIMIT, "promised, but nothing shows whether the same key is charged once")
    return Finding("idempotency", Status.BAD, f"the same key twice was charged {charged} forwards where once is {once}")


def retry_after(attempts: Sequence[Attempt]) -> Finding:
    """Judge whether a busy host said for how long, where it was busy at all."""
    busy = [a for a in attempts if a.status in _BUSY]
    if not busy:
        return Finding("retry-after", Status.SKIPPED, "the host was never busy")
    silent = sum(a.retry_after is None for a in busy)
    told = f"{len(busy)} busy replies, {len(busy) - silent} of them with Retry-After"
    return Finding("retry-after", Status.LIMIT if silent else Status.OK, told, {"busy": len(busy), "silent": silent})


def prices(card: ModelCard, guarantees: Guarantees) -> Finding:
    """Say what a thousand forwards cost."""
    if not guarantees.exact_cost:
        return Finding("prices", Status.LIMIT, "the host does not say what a call costs: --max-price caps nothing here")
    p = card.prices
    told = f"{p.forward_micros / 1000:g} {p.currency} a thousand forwards, {p.query_micros / 1000:g} a thousand queries"
    return Finding("prices", Status.OK, told, p.model_dump())


def latency(attempts: Sequence[Attempt]) -> Finding:
    """Say the median time of the small questions that were answered; `attempts` are theirs."""
    seconds = statistics.median(a.latency for a in attempts)
    return Finding("latency", Status.OK, f"{seconds * 1000:.0f} ms, median of {len(attempts)}", {"seconds": seconds})


def batch(answer: Answer, seconds: float) -> Finding:
    """Say how fast the largest request asked was answered."""
    forwards = answer.charge.forwards
    rate = forwards / max(seconds, 1e-9)
    told = f"{forwards} forwards in one request, {rate:.0f} forwards/s"
    return Finding("largest batch", Status.OK, told, {"forwards": forwards, "rate": rate, "seconds": seconds})


def promises(guarantees: Guarantees) -> Finding:
    """Say what the host does not guarantee."""
    missing = shortfalls(guarantees)
    return Finding("guarantees", Status.LIMIT if missing else Status.OK, "; ".join(missing) or "all there are")


def recommend(card: ModelCard, spread: Spread | None) -> Recommendation:
    """Return the settings a run on this host should begin with."""
    limits = card.limits
    objective = "loss" if "loss" in card.objectives else "images"
    usual = 8 if objective == "loss" else 2
    samples = min(usual if spread is None else samples_needed(spread), limits.max_samples)
    popsize = _POPSIZE
    if card.reply_mode == "rank" and objective == "loss":
        # Ranks compare within one request: a generation has to fit into it.
        popsize = min(popsize, limits.max_candidates, limits.max_forwards // samples)
    return Recommendation(
        objective=objective, popsize=max(2, popsize), samples=samples, concurrency=limits.max_concurrency
    )
