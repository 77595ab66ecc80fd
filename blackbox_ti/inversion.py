"""The main path: pictures in, a word out. Read `invert` top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from blackbox_ti.canary import Canary, rivals
from blackbox_ti.clip import Clip
from blackbox_ti.endpoint import Endpoint
from blackbox_ti.errors import BudgetSpentError, InputError
from blackbox_ti.evaluation import Evaluator, ObjectiveName, Purpose, Scores
from blackbox_ti.heldout import Judge
from blackbox_ti.initialise import Start
from blackbox_ti.objective import fitness_of
from blackbox_ti.plan import Plan
from blackbox_ti.prepare import Prepared, image_evaluator, loss_evaluator, prepare, search_subspace
from blackbox_ti.progress import Phase, Progress
from blackbox_ti.scorers import Scorer
from blackbox_ti.search import CmaSearch, SearchSettings
from blackbox_ti.settings import InversionSettings
from blackbox_ti.start import choose_start
from blackbox_ti.subspace import Embedding, Subspace
from blackbox_ti.wire import ModelCard

__all__ = ["InversionResult", "StopReason", "invert"]

Q = TypeVar("Q")


class StopReason(StrEnum):
    """Why a search ended."""

    PLAN_FINISHED = "plan_finished"
    NOTHING_MORE_LEARNED = "nothing_more_learned"
    BUDGET_SPENT = "budget_spent"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class InversionResult:
    """A learned word: `embedding` maps encoders to (T, D) float32.

    `heldout_loss_before` and `heldout_loss_after` are measured on a bank that neither the search nor the choice of the
    answer has seen, the same for both; None where the host tells no losses. Where pictures are judged there are no
    losses, and the held-out scores are the mean of what `scorer` says, larger being better. `history` holds one
    `Progress` a generation. `host_changed` is as in `Progress`.
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
    host_changed: int = 0
    objective: ObjectiveName = "loss"
    scorer: str | None = None
    heldout_score_before: float | None = None
    heldout_score_after: float | None = None


def invert(
    endpoint: Endpoint,
    images: Path | Sequence[Path | Image.Image],
    settings: InversionSettings | None = None,
    *,
    clip: Clip | None = None,
    scorer: Scorer | None = None,
    initial_embedding: Path | None = None,
    keep_concept: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_plan: Callable[[Plan, Start], None] | None = None,
) -> InversionResult:
    """Learn a word for the concept that `images` (a folder, paths, or pictures) show.

    Ctrl-C ends the search and returns the best so far. Where the host is asked for losses it is sent the pictures,
    which are removed from it at the end unless kept; where it is asked for pictures they stay here, and `scorer`, by
    default one over `clip`, judges what it draws.

    Raises:
        InputError: pictures, placeholder, scorer or settings cannot be used.
        BudgetTooSmallError: `settings.max_forwards` does not pay for one generation.
        EndpointError: the host failed.
    """
    settings = settings or InversionSettings()
    ready = prepare(endpoint, images, settings, clip=clip, scorer=scorer, initial_embedding=initial_embedding)
    if ready.scorer is not None:
        judged = image_evaluator(endpoint, ready, settings, ready.scorer)
        return _learn(judged, ready, settings, endpoint.describe, on_progress, on_plan)
    concept = endpoint.register_concept(ready.concept.pngs)
    try:
        asked = loss_evaluator(endpoint, ready, settings, concept)
        return _learn(asked, ready, settings, endpoint.describe, on_progress, on_plan)
    finally:
        if not keep_concept:
            endpoint.delete_concept(concept)


def _learn(
    evaluator: Evaluator[Q],
    ready: Prepared,
    settings: InversionSettings,
    describe: Callable[[], ModelCard],
    on_progress: Callable[[Progress], None] | None,
    on_plan: Callable[[Plan, Start], None] | None,
) -> InversionResult:
    run = _Run(evaluator, settings, ready, on_progress, describe)
    bank = partial(run.bank, "race")
    start = choose_start(evaluator, ready.starts, ready.plan.races, bank, ready.extended, run.raced)
    if on_plan:
        on_plan(ready.plan, start)
    return run.search(start, search_subspace(ready, start.embedding, settings, _rng(settings, "subspace")))


def _rng(settings: InversionSettings, purpose: str, index: int = 0) -> np.random.Generator:
    """A generator of its own for each purpose, so that one knob does not reshuffle another's luck."""
    return np.random.default_rng([settings.seed, index, *purpose.encode()])


def _row(embeddings: Embedding, index: int) -> Embedding:
    return {name: rows[index] for name, rows in embeddings.items()}


class _Run(Generic[Q]):
    """One search under way: what it asked so far and what it says of itself."""

    def __init__(
        self,
        evaluator: Evaluator[Q],
        settings: InversionSettings,
        ready: Prepared,
        on_progress: Callable[[Progress], None] | None,
        describe: Callable[[], ModelCard],
    ) -> None:
        self.evaluator, self.settings, self.ready, self.plan = evaluator, settings, ready, ready.plan
        self.on_progress = on_progress or (lambda _: None)
        self.started = time.monotonic()
        self.history: list[Progress] = []
        self.describe = describe
        self.canary: Canary | None = None
        self.kept: tuple[int, list[Q]] = (-1, [])

    def bank(self, purpose: Purpose, size: int, index: int = 0) -> list[Q]:
        """Draw the bank of one purpose; banks of search and judgement share no seed."""
        return self.evaluator.bank(purpose, size, _rng(self.settings, purpose, index)) if size else []

    def search(self, start: Start, subspace: Subspace) -> InversionResult:
        """Search from `start`; the answer is the best average of means on the held-out bank."""
        judge = Judge(self.evaluator, self.bank("heldout", self.plan.heldout), start.embedding)
        report = self.bank("report", self.plan.report)
        before = None
        strategy = CmaSearch(self._search_settings(), _rng(self.settings, "search"))
        try:
            before = self._report(start.embedding, report, "heldout/before")
            judge.open()
            self._open_canary(start.embedding)
            reason = self._generations(strategy, subspace, judge)
        except KeyboardInterrupt:
            reason = StopReason.INTERRUPTED
        except BudgetSpentError:
            reason = StopReason.BUDGET_SPENT
        after = None if reason is StopReason.BUDGET_SPENT else self._report(judge.best, report, "heldout/after")
        return self._result(start, judge, reason, before, after)

    def _search_settings(self) -> SearchSettings:
        s = self.settings
        return SearchSettings(self.plan.dimension, self.plan.popsize, self.plan.sigma, s.covariance, s.mirrored)

    def _generations(self, strategy: CmaSearch, subspace: Subspace, judge: Judge[Q]) -> StopReason:
        for generation in range(1, self.plan.generations + 1):
            candidates = subspace.embed(strategy.ask())
            scores = self._scores(candidates, generation)
            strategy.tell(scores.fitness)
            if generation % self.plan.check_every == 0 or generation == self.plan.generations:
                judge.consider(self._answer(strategy, subspace, candidates, scores), generation)
            self._watch(generation)
            self._tell(generation, scores.best, judge.best_loss)
            if judge.failures >= self.settings.patience:
                return StopReason.NOTHING_MORE_LEARNED
        return StopReason.PLAN_FINISHED

    def _answer(self, strategy: CmaSearch, subspace: Subspace, candidates: Embedding, scores: Scores) -> Embedding:
        if self.settings.answer == "luckiest":
            return _row(candidates, int(np.argmin(scores.fitness)))
        return _row(subspace.embed(strategy.averaged(self.settings.averaging)[None]), 0)

    def _scores(self, candidates: Embedding, generation: int) -> Scores:
        """Score a generation on one bank, or where the user wants it so each candidate on a bank of its own."""
        turn, label = (generation - 1) // self.settings.rotate_every, f"search/{generation}"
        if self.settings.common_noise:
            if self.kept[0] != turn:
                self.kept = turn, self.bank("search", self.plan.samples, turn)
            return self.evaluator.scores(candidates, self.kept[1], label)
        if self.evaluator.ranked:
            raise InputError("this host ranks candidates on one bank; leave --no-common-noise out")
        losses = []
        for c in range(self.plan.popsize):
            own = self.bank("search", self.plan.samples, turn * self.plan.popsize + c)
            alone = self.evaluator.scores({n: v[c : c + 1] for n, v in candidates.items()}, own, f"{label}/{c}")
            losses.append(alone.losses[0] if alone.losses is not None else None)
        return Scores(fitness_of(losses), losses)

    def _open_canary(self, embedding: Embedding) -> None:
        """Ask the canary's question for the first time; a host that only ranks is asked about several candidates."""
        if self.plan.canary.every:
            rng = _rng(self.settings, "canary")
            bank = self.evaluator.bank("race", self.plan.canary.samples, rng)
            alone = {name: vectors[None] for name, vectors in embedding.items()}
            asked = rivals(embedding, self.evaluator.card, rng) if self.evaluator.ranked else alone
            self.canary = Canary(self.evaluator, asked, bank, self.describe)
            self.canary.open()

    def _watch(self, generation: int) -> None:
        if self.canary is not None and generation % self.plan.canary.every == 0:
            self.canary.check(generation)

    def _report(self, embedding: Embedding, bank: Sequence[Q], label: str) -> float | None:
        if not bank or self.evaluator.ranked:
            return None
        return self.evaluator.scores({n: v[None] for n, v in embedding.items()}, bank, label).mean(0)

    def raced(self, turn: int) -> None:
        """Tell that a round of the races for the start is over."""
        rounds = sum(len(race) for race in self.plan.races)
        self.on_progress(self._now("race", turn, rounds, None, None))

    def _tell(self, generation: int, loss: float | None, heldout: float | None) -> None:
        self.history.append(self._now("search", generation, self.plan.generations, loss, heldout))
        self.on_progress(self.history[-1])

    def _now(self, phase: Phase, done: int, of: int, loss: float | None, heldout: float | None) -> Progress:
        (loss, score), (heldout, heldout_score) = self._named(loss), self._named(heldout)
        return Progress(
            phase, done, of, self.evaluator.spent.forwards, self.plan.max_forwards, loss, heldout,
            time.monotonic() - self.started, self.canary.changes if self.canary else 0, score, heldout_score,
        )  # fmt: skip

    def _named(self, value: float | None) -> tuple[float | None, float | None]:
        """Return (loss, score) for what was minimised: scores of pictures have their sign changed to that end."""
        if self.evaluator.objective == "loss" or value is None:
            return value, None
        return None, -value

    def _result(
        self, start: Start, judge: Judge[Q], reason: StopReason, before: float | None, after: float | None
    ) -> InversionResult:
        spent, scorer = self.evaluator.spent, self.ready.scorer
        (loss_before, score_before), (loss_after, score_after) = self._named(before), self._named(after)
        return InversionResult(
            placeholder_token=self.settings.placeholder_token,
            embedding=judge.best,
            initial_embedding=start.embedding,
            start=start.description,
            stop_reason=reason,
            heldout_loss_before=loss_before,
            heldout_loss_after=loss_after,
            heldout_score_before=score_before,
            heldout_score_after=score_after,
            objective=self.evaluator.objective,
            scorer=scorer.name if scorer else None,
            forwards=spent.forwards,
            queries=spent.queries,
            seconds=time.monotonic() - self.started,
            settings=self.settings,
            plan=self.plan,
            card=self.evaluator.card,
            concept_sha256=self.ready.concept.sha256,
            history=self.history,
            host_changed=self.canary.changes if self.canary else 0,
        )
