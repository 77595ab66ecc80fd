"""The main path: pictures in, a word out. Read `invert` top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from blackbox_ti.clip import Clip
from blackbox_ti.concept import Concept, load_concept
from blackbox_ti.endpoint import Endpoint, Vocabulary
from blackbox_ti.errors import BudgetSpentError
from blackbox_ti.evaluation import Evaluator, LossEvaluator, Purpose
from blackbox_ti.heldout import Judge
from blackbox_ti.initialise import Start, check_placeholder, whole_words
from blackbox_ti.objective import prompts_for
from blackbox_ti.plan import InversionSettings, Plan, make_plan
from blackbox_ti.search import CmaSearch, SearchSettings
from blackbox_ti.start import choose_start, shortlist
from blackbox_ti.subspace import Embedding, Subspace, full_subspace, pca_subspace, random_subspace
from blackbox_ti.wire import ModelCard

__all__ = ["InversionResult", "Prepared", "Progress", "StopReason", "invert", "prepare"]

Q = TypeVar("Q")


class StopReason(StrEnum):
    """Why a search ended."""

    PLAN_FINISHED = "plan_finished"
    NOTHING_MORE_LEARNED = "nothing_more_learned"
    BUDGET_SPENT = "budget_spent"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Progress:
    """Where a run stands; losses are None before the first and where the host tells none."""

    phase: str
    generation: int
    generations: int
    forwards: int
    max_forwards: int
    loss: float | None
    heldout_loss: float | None
    seconds: float


@dataclass(frozen=True)
class InversionResult:
    """A learned word: `embedding` maps encoders to (T, D) float32.

    `heldout_loss_before` and `heldout_loss_after` are measured on a bank that neither the search nor the choice of the
    answer has seen, the same for both; None where the host tells no losses. `history` holds one `Progress` a
    generation.
    """

    placeholder_token: str
    embedding: Embedding
    initial_embedding: Embedding
    start: str
    stop_reason: StopReason
    heldout_loss_before: float | None
    heldout_loss_after: float | None
    forwards: int
    queries: int
    seconds: float
    settings: InversionSettings
    plan: Plan
    card: ModelCard
    concept_sha256: str
    history: Sequence[Progress] = field(default_factory=list)


def invert(
    endpoint: Endpoint,
    images: Path | Sequence[Path | Image.Image],
    settings: InversionSettings | None = None,
    *,
    clip: Clip | None = None,
    initial_embedding: Path | None = None,
    keep_concept: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_plan: Callable[[Plan, Start], None] | None = None,
) -> InversionResult:
    """Learn a word for the concept that `images` (a folder, paths, or pictures) show.

    Ctrl-C ends the search and returns the best so far. The concept is removed from the host at the end unless kept.

    Raises:
        InputError: pictures, placeholder or settings cannot be used.
        BudgetTooSmallError: `settings.max_forwards` does not pay for one generation.
        EndpointError: the host failed.
    """
    settings = settings or InversionSettings()
    ready = prepare(endpoint, images, settings, clip=clip, initial_embedding=initial_embedding)
    plan, card = ready.plan, ready.card
    registered = endpoint.register_concept(ready.concept.pngs)
    try:
        prompts = prompts_for(settings.learnable_property, settings.placeholder_token)
        evaluator = LossEvaluator(
            endpoint, card, registered, settings.placeholder_token, prompts,
            images=len(ready.concept.pngs), t_min=settings.t_min, t_max=settings.t_max,
        )  # fmt: skip
        run = _Run(evaluator, settings, plan, ready.concept, on_progress)
        start = choose_start(evaluator, ready.starts, run.bank("race", plan.race_samples))
        if on_plan:
            on_plan(plan, start)
        subspace = _subspace(plan, start.embedding, ready.vocabularies, card, settings)
        return run.search(start, subspace)
    finally:
        if not keep_concept:
            endpoint.delete_concept(registered)


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs before its first charged call: the starts that will race, and the plan."""

    card: ModelCard
    concept: Concept
    vocabularies: Mapping[str, Vocabulary]
    starts: Sequence[Start]
    plan: Plan


def prepare(
    endpoint: Endpoint,
    images: Path | Sequence[Path | Image.Image],
    settings: InversionSettings,
    *,
    clip: Clip | None = None,
    initial_embedding: Path | None = None,
) -> Prepared:
    """Return what `invert` would do, at no cost: nothing is charged, and no picture leaves the machine.

    Raises:
        InputError: pictures, placeholder or settings cannot be used.
        BudgetTooSmallError: `settings.max_forwards` does not pay for one generation.
    """
    card = endpoint.describe()
    check_placeholder(settings.placeholder_token, {})
    concept = load_concept(images, card.resolution)
    vocabularies = _vocabularies(endpoint, card)
    check_placeholder(settings.placeholder_token, vocabularies)
    starts = shortlist(settings, card, concept, vocabularies, clip, initial_embedding)
    known = min((len(whole_words(v).tokens) for v in vocabularies.values()), default=0)
    plan = make_plan(settings, card, vocabulary=known, words=len(starts))
    return Prepared(card, concept, vocabularies, starts[: plan.race], plan)


def _vocabularies(endpoint: Endpoint, card: ModelCard) -> dict[str, Vocabulary]:
    """Every encoder's token table, or none: half a vocabulary starts no search."""
    found = {e.name: endpoint.vocabulary(e.name) for e in card.encoders} if card.vocabulary else {}
    return {name: table for name, table in found.items() if table is not None} if all(found.values()) else {}


def _subspace(
    plan: Plan, origin: Embedding, vocabularies: Mapping[str, Vocabulary], card: ModelCard, settings: InversionSettings
) -> Subspace:
    per_vector = plan.dimension // (settings.num_vectors * len(card.encoders))
    if plan.subspace == "pca":
        return pca_subspace(origin, {n: whole_words(v) for n, v in vocabularies.items()}, per_vector)
    if plan.subspace == "random":
        return random_subspace(origin, card.encoders, per_vector, _rng(settings, "subspace"))
    return full_subspace(origin, card.encoders)


def _rng(settings: InversionSettings, purpose: str, index: int = 0) -> np.random.Generator:
    """A generator of its own for each purpose, so that one knob does not reshuffle another's luck."""
    return np.random.default_rng([settings.seed, index, *purpose.encode()])


class _Run(Generic[Q]):
    """One search under way: what it asked so far and what it says of itself."""

    def __init__(
        self,
        evaluator: Evaluator[Q],
        settings: InversionSettings,
        plan: Plan,
        concept: Concept,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.evaluator, self.settings, self.plan, self.concept = evaluator, settings, plan, concept
        self.on_progress = on_progress or (lambda _: None)
        self.started = time.monotonic()
        self.history: list[Progress] = []

    def bank(self, purpose: Purpose, size: int, index: int = 0) -> list[Q]:
        """Draw the bank of one purpose; banks of search and judgement share no seed."""
        return self.evaluator.bank(purpose, size, _rng(self.settings, purpose, index)) if size else []

    def search(self, start: Start, subspace: Subspace) -> InversionResult:
        """Search from `start`; the answer is the best mean on the held-out bank."""
        judge = Judge(self.evaluator, self.bank("heldout", self.plan.heldout), start.embedding)
        report = self.bank("report", self.plan.report)
        before = None
        strategy = CmaSearch(self._search_settings(), _rng(self.settings, "search"))
        try:
            before = self._report(start.embedding, report, "heldout/before")
            judge.open()
            reason = self._generations(strategy, subspace, judge)
        except KeyboardInterrupt:
            reason = StopReason.INTERRUPTED
        except BudgetSpentError:
            reason = StopReason.BUDGET_SPENT
        after = None if reason is StopReason.BUDGET_SPENT else self._report(judge.best, report, "heldout/after")
        return self._result(start, judge, reason, before, after)

    def _search_settings(self) -> SearchSettings:
        s = self.settings
        return SearchSettings(self.plan.dimension, self.plan.popsize, s.sigma, s.covariance, s.mirrored)

    def _generations(self, strategy: CmaSearch, subspace: Subspace, judge: Judge[Q]) -> StopReason:
        for generation in range(1, self.plan.generations + 1):
            bank = self.bank("search", self.plan.samples, (generation - 1) // self.settings.rotate_every)
            candidates = strategy.ask()
            scores = self.evaluator.scores(subspace.embed(candidates), bank, f"search/{generation}")
            strategy.tell(scores.fitness)
            if self.plan.heldout and (generation % self.plan.check_every == 0 or generation == self.plan.generations):
                mean = {name: rows[0] for name, rows in subspace.embed(strategy.mean[None]).items()}
                judge.consider(mean, generation)
            elif not self.plan.heldout:
                judge.best = {name: rows[0] for name, rows in subspace.embed(strategy.mean[None]).items()}
            best = min((m for m in map(scores.mean, range(len(scores.fitness))) if m is not None), default=None)
            self._tell("search", generation, best, judge.best_loss)
            if judge.failures >= self.settings.patience:
                return StopReason.NOTHING_MORE_LEARNED
        return StopReason.PLAN_FINISHED

    def _report(self, embedding: Embedding, bank: Sequence[Q], label: str) -> float | None:
        if not bank or self.evaluator.ranked:
            return None
        return self.evaluator.scores({n: v[None] for n, v in embedding.items()}, bank, label).mean(0)

    def _tell(self, phase: str, generation: int, loss: float | None, heldout: float | None) -> None:
        now = Progress(
            phase, generation, self.plan.generations, self.evaluator.spent.forwards, self.plan.max_forwards, loss,
            heldout, time.monotonic() - self.started,
        )  # fmt: skip
        self.history.append(now)
        self.on_progress(now)

    def _result(
        self, start: Start, judge: Judge[Q], reason: StopReason, before: float | None, after: float | None
    ) -> InversionResult:
        spent = self.evaluator.spent
        return InversionResult(
            placeholder_token=self.settings.placeholder_token,
            embedding=judge.best,
            initial_embedding=start.embedding,
            start=start.description,
            stop_reason=reason,
            heldout_loss_before=before,
            heldout_loss_after=after,
            forwards=spent.forwards,
            queries=spent.queries,
            seconds=time.monotonic() - self.started,
            settings=self.settings,
            plan=self.plan,
            card=self.evaluator.card,
            concept_sha256=self.concept.sha256,
            history=self.history,
        )
