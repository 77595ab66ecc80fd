"""Probe a host at a tiny fixed cost, said before it is spent, and say whether and how to use it.

Reachable, TLS, key, protocol, dimensions, dtypes, limits, determinism, noise of the loss, idempotency, Retry-After,
prices, latency, rate, guarantees; then a verdict and settings. Exit codes: 0 ok, 20 usable with limits, 21 not usable.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np

from blackbox_ti import doctor_checks as checks
from blackbox_ti.attempt import Attempt
from blackbox_ti.budget import Cost, cost_of
from blackbox_ti.connection import ConnectionOptions, is_loopback
from blackbox_ti.connection_args import add_connection, connect, connection_options
from blackbox_ti.doctor_noise import Spread
from blackbox_ti.doctor_questions import BATCH_FORWARDS, Question, probe_picture, questions_for, words_for
from blackbox_ti.doctor_report import DoctorReport, Finding, Status
from blackbox_ti.doctor_tls import shake_hands
from blackbox_ti.endpoint import RemoteEndpoint, Vocabulary, guarantees_of
from blackbox_ti.errors import BlackboxTIError, InputError
from blackbox_ti.wire import LossRequest, ModelCard

__all__ = ["Probe", "add_parser", "examine"]

_SMALL = ("alone", "again", "half")


class _UnansweredError(Exception):
    """A question that a check needs got no answer."""


class Probe:
    """One probe under way: what was asked, answered, tried on the wire and found.

    Args:
        endpoint: the host; its attempts go to `attempts`.
        attempts: filled by the endpoint's hook.
        stranger: makes an endpoint to the same host without a key.
        options: the way to the host, for a TLS handshake.
        rng: draws words, samples and keys.
        batch_forwards: the most forwards asked in one request.
    """

    def __init__(
        self,
        endpoint: RemoteEndpoint,
        attempts: list[Attempt],
        *,
        stranger: Callable[[], RemoteEndpoint],
        options: ConnectionOptions,
        rng: np.random.Generator,
        batch_forwards: int = BATCH_FORWARDS,
    ) -> None:
        self.endpoint, self.attempts, self.stranger, self.options = endpoint, attempts, stranger, options
        self._rng, self._batch_forwards = rng, batch_forwards
        self.findings: list[Finding] = []
        self.questions: dict[str, Question] = {}
        self.answers: dict[str, checks.Answer] = {}
        self.keys: dict[str, str] = {}
        self._unanswered: set[str] = set()
        self.vocabularies: dict[str, Vocabulary] = {}
        self.spread: Spread | None = None
        self.concept = ""
        self._spent = Cost()

    @property
    def cost(self) -> Cost:
        """What the questions cost together, exactly, each charged however often its key was used before."""
        return sum((question.cost for question in self.questions.values()), start=Cost())

    def check(self, name: str, function: Callable[[], Finding]) -> None:
        """Run one check; whatever happens in it is a finding, and the next check runs."""
        try:
            finding = function()
        except _UnansweredError as error:
            finding = Finding(name, Status.SKIPPED, str(error))
        except BlackboxTIError as error:
            finding = Finding(name, Status.BAD, str(error))
        except Exception as error:
            finding = Finding(name, Status.BAD, f"the check itself failed: {type(error).__name__}")
        self.findings.append(finding)

    def first_look(self) -> ModelCard | None:
        """Make the checks that cost nothing; return the card, or None where the host cannot be asked at all."""
        found: list[ModelCard] = []

        def reachable() -> Finding:
            found.append(self.endpoint.describe())
            return Finding("reachable", Status.OK, self.endpoint.url)

        self.check("tls", self._tls)
        self.check("reachable", reachable)
        if not found:
            return None
        self.findings += checks.card_findings(found[0])
        self.check("auth", self._auth)
        return found[0]

    def _tls(self) -> Finding:
        if not self.endpoint.url.startswith("https"):
            return Finding("tls", Status.SKIPPED, "plain http")
        if self.options.proxy is not None:
            return Finding("tls", Status.SKIPPED, "through a proxy; not looked at")
        return checks.tls(shake_hands(self.endpoint.url, self.options), datetime.now(UTC))

    def _auth(self) -> Finding:
        with contextlib.closing(self.stranger()) as stranger:
            return checks.auth(stranger.describe, loopback=is_loopback(httpx.URL(self.endpoint.url).host))

    def draw(self, card: ModelCard) -> None:
        """Fix the questions: words of the host's vocabulary where it offers one, and a drawn picture as the concept."""
        if card.vocabulary:
            with contextlib.suppress(BlackboxTIError):
                told = {e.name: self.endpoint.vocabulary(e.name) for e in card.encoders}
                self.vocabularies = {name: table for name, table in told.items() if table is not None}
        words = words_for(card, self.vocabularies, 4, self._rng)
        self.questions = questions_for(card, words, self.concept, self._rng, self._batch_forwards)
        if not guarantees_of(self.endpoint).idempotency:
            del self.questions["repeat"]

    def register(self, card: ModelCard) -> Finding:
        """Show the host the drawn picture."""
        self.concept = self.endpoint.register_concept([probe_picture(card.resolution)])
        return Finding("concept", Status.OK, "a drawn picture was registered; it is removed at the end")

    def ask(self, name: str) -> checks.Answer:
        """Return the answer to a question, asked once.

        Raises:
            _UnansweredError: it got none before, or was not planned.
        """
        if name in self.answers:
            return self.answers[name]
        if name in self._unanswered or name not in self.questions:
            raise _UnansweredError(f"the question it needs ({name}) got no answer")
        self._unanswered.add(name)
        self.keys[name] = self.keys["alone"] if name == "repeat" else self._rng.bytes(16).hex()
        answer = self._send(self.questions[name], self.keys[name])
        self.answers[name] = answer
        if name != "repeat":
            self._count(answer)
        return answer

    def _count(self, answer: checks.Answer) -> None:
        self._spent += cost_of(answer.charge)

    def _send(self, question: Question, key: str) -> checks.Answer:
        request = question.request
        if isinstance(request, LossRequest):
            asked = request.model_copy(update={"concept": self.concept})
            return self.endpoint.losses(asked, label="doctor", key=key)
        return self.endpoint.images(request, label="doctor", key=key)

    def second_look(self, card: ModelCard) -> None:
        """Make the checks that cost forwards."""
        guarantees = guarantees_of(self.endpoint)
        if "loss" in card.objectives:
            self.check("concept", lambda: self.register(card))
        self.check("noise", self._noise)
        self.check("idempotency", self._idempotency)
        self.check("determinism", lambda: checks.determinism(self.ask("alone"), self.ask("again"), card))
        self.check("batch mates", lambda: self._batch_mates(card))
        self.check("dtype", lambda: checks.half_precision(self.ask("half")))
        self.check("largest batch", self._batch)
        self.check("latency", self._latency)
        self.check("retry-after", lambda: checks.retry_after(self.attempts))
        self.check("prices", lambda: checks.prices(card, guarantees))
        self.check("guarantees", lambda: checks.promises(guarantees))

    def _noise(self) -> Finding:
        finding, self.spread = checks.noise(self.ask("words"), of_vocabulary=bool(self.vocabularies))
        return finding

    def _batch_mates(self, card: ModelCard) -> Finding:
        alone, among = self.ask("alone"), self.ask("words")
        if card.reply_mode == "rank" and "loss" in card.objectives:
            return Finding("batch mates", Status.SKIPPED, "the host tells the order alone")
        return checks.batch_mates(alone, among, card)

    def _idempotency(self) -> Finding:
        guarantees = guarantees_of(self.endpoint)
        before = self._told_usage()
        first = self.ask("alone")
        if not guarantees.idempotency:
            return checks.idempotency(first, first, [], None, guarantees)
        since = len(self.attempts)
        repeat = self.ask("repeat")
        after = self._told_usage()
        charged = None if before is None or after is None else after - before
        finding = checks.idempotency(first, repeat, self.attempts[since:], charged, guarantees)
        if finding.status is Status.BAD:
            self._count(repeat)
        return finding

    def _told_usage(self) -> int | None:
        """Return what the host's own book says was spent, or None where it has none to ask."""
        if not guarantees_of(self.endpoint).receipts:
            return None
        try:
            return self.endpoint.usage().forwards
        except BlackboxTIError:
            return None

    def _batch(self) -> Finding:
        answer = self.ask("batch")
        taken = [a.latency for a in self.attempts if a.idempotency_key == self.keys["batch"] and a.effect == "done"]
        return checks.batch(answer, taken[-1])

    def _latency(self) -> Finding:
        keys = {self.keys[name] for name in _SMALL if name in self.answers}
        done = [a for a in self.attempts if a.idempotency_key in keys and a.effect == "done" and not a.replayed]
        if not done:
            raise _UnansweredError("no small question got an answer")
        return checks.latency(done)

    def clean_up(self) -> None:
        """Remove the drawn picture."""
        if self.concept:
            with contextlib.suppress(BlackboxTIError):
                self.endpoint.delete_concept(self.concept)

    def report(self, card: ModelCard | None, cost: Cost) -> DoctorReport:
        """Return everything found."""
        usable = card is not None and card.objectives
        return DoctorReport(
            endpoint=self.endpoint.url,
            findings=self.findings,
            cost=cost,
            spent=self._spent,
            recommended=checks.recommend(card, self.spread) if card is not None and usable else None,
        )


def examine(probe: Probe, *, on_cost: Callable[[Cost, ModelCard], bool] = lambda *_: True) -> DoctorReport:
    """Probe a host; `on_cost` hears what it will cost before anything is spent, and may say no by False."""
    card = probe.first_look()
    if card is None or not card.objectives:
        return probe.report(card, Cost())
    probe.draw(card)
    cost = probe.cost
    if on_cost(cost, card):
        try:
            probe.second_look(card)
        finally:
            probe.clean_up()
    return probe.report(card, cost)


def add_parser(subparsers: Any) -> None:
    """Add `doctor` to the command line's subparsers; its `run` takes the parsed arguments, returns an exit code."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor",
        help="probe a host at a tiny cost, and say whether and how to use it",
        description=sys.modules[__name__].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_connection(parser)
    parser.add_argument("--dry-run", action="store_true", help="make the checks that cost nothing, and say the cost")
    parser.add_argument(
        "--batch-forwards", type=int, default=BATCH_FORWARDS, metavar="N",
        help=f"most forwards asked in one request (default {BATCH_FORWARDS})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    """Probe and print."""
    if arguments.batch_forwards < 1:
        raise InputError("--batch-forwards is at least 1")
    attempts: list[Attempt] = []
    with contextlib.closing(connect(arguments, on_attempt=attempts.append)) as endpoint:
        probe = Probe(
            endpoint,
            attempts,
            stranger=lambda: connect(arguments, anonymous=True),
            options=connection_options(arguments),
            rng=np.random.default_rng(),
            batch_forwards=arguments.batch_forwards,
        )
        report = examine(probe, on_cost=lambda cost, card: _say(cost, card, dry=arguments.dry_run))
    sys.stdout.write((report.to_json() if arguments.json else report.to_text()) + "\n")
    return report.verdict.exit_code


def _say(cost: Cost, card: ModelCard, *, dry: bool) -> bool:
    price = f"{cost.price_micros / 1e6:.6f} {card.prices.currency}"
    sys.stderr.write(f"this probe costs at most {cost.forwards} forwards, {cost.queries} queries, {price}\n")
    return not dry
