"""How a search arranges itself within its budget: every knob settable, the rest chosen from the forwards there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blackbox_ti.batching import pack
from blackbox_ti.budget import Cost, cost_of_losses
from blackbox_ti.canary_plan import NO_CANARY, RIVALS, SAMPLES, CanaryPlan, plan_canary
from blackbox_ti.errors import BudgetTooSmallError, InputError
from blackbox_ti.image_evaluation import PictureSettings, cost_of_bank
from blackbox_ti.objective import ObjectProperty
from blackbox_ti.proposals import EXTENSIONS
from blackbox_ti.settings import InversionSettings, SubspaceName, objective_of
from blackbox_ti.wire import ModelCard

__all__ = ["Plan", "Race", "affordable_race", "make_plan"]

Race = tuple[tuple[int, int], ...]

_RACE_SAMPLES, _RACE_PICTURES, _RACE_SHARE, _FEW_STARTS = 16, 4, 6, 8
_SEARCH_SIZE = 512


@dataclass(frozen=True)
class Plan:
    """A search that fits its budget. Costs are in forwards.

    Starts are compared in rounds of (starts, samples), the best of one going on to the next; the first of `races` is
    theirs, each other that of the winner with what it is extended to.
    """

    subspace: SubspaceName
    dimension: int
    popsize: int
    samples: int
    generations: int
    races: tuple[Race, ...]
    heldout: int
    check_every: int
    report: int
    ranked: bool
    max_forwards: int
    common_noise: bool = True
    notes: tuple[str, ...] = ()
    canary: CanaryPlan = NO_CANARY
    pictures: PictureSettings | None = None
    sigma: float = 1.0

    @property
    def race(self) -> int:
        """How many starts are worth having: those of the first round, or one where there is none."""
        return _starts_of(self.races)

    @property
    def sample_forwards(self) -> int:
        """What one candidate costs on one sample: a forward, or those of a picture."""
        return self.pictures.forwards if self.pictures else 1

    @property
    def canary_cost(self) -> int:
        """What noticing a swapped model costs."""
        return self.canary.cost(self.generations) * self.sample_forwards

    @property
    def race_cost(self) -> int:
        """What comparing words costs."""
        return sum(map(_samples_of, self.races)) * self.sample_forwards

    @property
    def checks(self) -> int:
        """How often the mean is judged on the held-out bank after the start."""
        return -(-self.generations // self.check_every) if self.heldout else 0

    @property
    def heldout_cost(self) -> int:
        """What judging costs: the start and every check once on the held-out bank, both ends once on the report's.

        Where the host only ranks, a check asks about both rivals, and there is no loss to report.
        """
        if self.ranked:
            return 2 * self.checks * self.heldout
        samples = (self.checks + 1 if self.heldout else 0) * self.heldout + 2 * self.report
        return samples * self.sample_forwards

    @property
    def search_cost(self) -> int:
        """What the generations cost."""
        return self.generations * self.popsize * self.samples * self.sample_forwards

    @property
    def total(self) -> int:
        """The whole run."""
        return self.race_cost + self.search_cost + self.heldout_cost + self.canary_cost

    def cost(self, card: ModelCard) -> Cost:
        """Return the exact cost of the whole plan on an endpoint, as its books will show it."""
        calls = [rounds for race in self.races for rounds in race]
        generation = [(self.popsize, self.samples)] if self.common_noise else [(1, self.samples)] * self.popsize
        calls += generation * self.generations
        calls += [(2 if self.ranked else 1, self.heldout)] * self.checks
        if not self.ranked:
            calls += [(1, self.heldout)] * bool(self.heldout) + [(1, self.report)] * 2
        calls += [(self.canary.candidates, self.canary.samples)] * self.canary.asks(self.generations)
        total = Cost()
        if self.pictures:
            return sum((cost_of_bank(n, samples, self.pictures, card) for n, samples in calls), start=total)
        for candidates, samples in calls:
            for b in pack(candidates, samples, card.limits):
                total += cost_of_losses(b.last - b.first, b.to_sample - b.from_sample, card.prices)
        return total

    def describe(self) -> str:
        """Return the plan in one line."""
        p = self.pictures
        made = f"pictures ({p.num_inference_steps} steps, guidance {p.guidance_scale:g}, {p.size} pixels)" if p else ""
        return (
            f"{self.generations} generations of {self.popsize} candidates x {self.samples} {made or 'samples'} in "
            f"{self.dimension} dimensions ({self.subspace}), sigma {self.sigma:g}; "
            f"{self.total:,} of {self.max_forwards:,} forwards: {self.race_cost:,} words, "
            f"{self.search_cost:,} search, {self.heldout_cost:,} held out, "
            f"{self.canary_cost:,} canary" + "".join(f"; {note}" for note in self.notes)
        )


def _pictures(settings: InversionSettings, card: ModelCard) -> PictureSettings | None:
    """How pictures are made while searching: at the model's own size if that is no more than 512 pixels."""
    if objective_of(settings, card) == "loss":
        return None
    size = settings.search_size or min(card.resolution, _SEARCH_SIZE)
    return PictureSettings(settings.search_steps, settings.search_guidance_scale, size).possible(card.limits)


def make_plan(
    settings: InversionSettings, card: ModelCard, *, vocabulary: int, words: int, extends: bool = False
) -> Plan:
    """Return the plan for a budget and an endpoint whose vocabulary has so many words.

    So many `words` can race at the start; `extends` says whether their winner can be extended.

    Raises:
        BudgetTooSmallError: not one generation fits.
        InputError: the subspace or the objective asked for is not to be had of this host.
    """
    pictures = _pictures(settings, card)
    each = pictures.forwards if pictures else 1
    budget = settings.max_forwards // each  # from here on in samples: forwards, or pictures
    subspace, dimension, per_vector = _space(settings, card, budget, vocabulary, words)
    popsize = settings.popsize or _popsize(budget)
    samples = min(settings.samples or _samples(budget), card.limits.max_samples)
    bank = _bank(settings.heldout, budget, card)
    ranked = card.reply_mode == "rank" and not pictures
    checks = _checks(settings, budget)
    judging = 2 * checks * bank if ranked else ((checks > 0) + checks + 2) * bank
    races = _races(settings, card, words, extends=extends)
    overhead = sum(map(_samples_of, races)) + judging
    canary = plan_canary(
        settings.canary_every,
        budget=budget,
        room=budget - overhead,
        generation=popsize * samples,
        candidates=RIVALS if ranked else 1,
        samples=min(SAMPLES, card.limits.max_samples),
    )
    generations = canary.generations(budget - overhead, popsize * samples)
    if generations < 1:
        raise _too_small(settings, (popsize * samples + overhead + canary.cost(1)) * each, drawn=pictures is not None)
    sigma = settings.sigma or _sigma(words, settings.learnable_property)
    check_every = max(1, -(-generations // checks)) if checks else 1
    return Plan(
        subspace, dimension, popsize, samples, generations, races, bank if checks else 0,
        check_every, bank, ranked, settings.max_forwards, settings.common_noise,
        _notes(settings, subspace, per_vector), canary, pictures, sigma,
    )  # fmt: skip


def affordable_race(settings: InversionSettings, card: ModelCard) -> int:
    """Return how many starts can race at most: what no budget pays for need not be made."""
    return _starts_of(_races(settings, card, settings.race, extends=False))


def _races(settings: InversionSettings, card: ModelCard, words: int, *, extends: bool) -> tuple[Race, ...]:
    """Return the largest race of up to `words` starts that its share of the budget pays for, and more with its winner.

    A winner is extended as often as what is left of that share pays for.
    """
    pictures = _pictures(settings, card)
    budget = settings.max_forwards // (pictures.forwards if pictures else 1)
    samples, most = settings.race_samples or _race_samples(budget, drawn=pictures is not None), card.limits.max_samples
    share = budget // _RACE_SHARE
    possible = (_rounds(starts, samples, most) for starts in range(min(settings.race, words), 1, -1))
    first = next((race for race in possible if _samples_of(race) <= share), None)
    if first is None:
        return ()
    further = _rounds(EXTENSIONS, samples, most)
    turns = (share - _samples_of(first)) // _samples_of(further) if extends else 0
    return first, *[further] * min(turns, settings.extensions)


def _race_samples(budget: int, *, drawn: bool) -> int:
    return _RACE_PICTURES if drawn else _RACE_SAMPLES * (1 if budget < 20_000 else 2)


def _starts_of(races: Sequence[Race]) -> int:
    return races[0][0][0] if races else 1


def _rounds(starts: int, samples: int, most_samples: int) -> Race:
    """All starts on half a bank, which tells where they differ, and a quarter of them on two.

    Most of a bank is so spent on those that are hard to tell apart. Few starts race in one round.
    """
    if starts < _FEW_STARTS:
        return ((starts, samples),)
    finalists = max(starts // 4, 2)
    return (starts, max(samples // 2, 1)), (finalists, min(2 * samples, most_samples))


def _samples_of(race: Race) -> int:
    return sum(starts * samples for starts, samples in race)


def _space(
    settings: InversionSettings, card: ModelCard, budget: int, vocabulary: int, words: int
) -> tuple[SubspaceName, int, int]:
    """What is searched: the kind of subspace, its dimension, and the axes of each token vector of each encoder.

    No more axes than the narrowest encoder has coordinates, nor principal ones than the vocabulary has words, less one.
    """
    subspace = settings.subspace or ("pca" if vocabulary else "random")
    if subspace == "pca" and not vocabulary:
        raise InputError("subspace 'pca' needs the host's vocabulary, which it does not offer; use 'random'")
    most = min([*(e.dim for e in card.encoders), *([vocabulary - 1] if subspace == "pca" else [])])
    per_vector = min(settings.dimension or _dimension(budget, words), most)
    if subspace == "full":
        return subspace, sum(e.dim for e in card.encoders) * settings.num_vectors, per_vector
    return subspace, per_vector * len(card.encoders) * settings.num_vectors, per_vector


def _too_small(settings: InversionSettings, least: int, *, drawn: bool) -> BudgetTooSmallError:
    """Return the error that says how many forwards would do; `drawn` where they are spent on pictures."""
    return BudgetTooSmallError(
        f"{settings.max_forwards} forwards do not pay for one generation; allow at least {least} or set --popsize, "
        "--samples" + (" or --search-steps" if drawn else "")
    )


def _notes(settings: InversionSettings, subspace: str, per_vector: int) -> tuple[str, ...]:
    """What a reader of the plan should know beyond its numbers."""
    notes = []
    if subspace != "full" and settings.dimension is not None and settings.dimension > per_vector:
        notes.append(f"{settings.dimension} dimensions asked, {per_vector} there are")
    if not settings.common_noise:
        notes.append("every candidate on noise of its own, so a generation compares luck as well as words")
    else:
        kept = settings.rotate_every
        notes.append("a fresh bank every generation" if kept == 1 else f"a bank kept for {kept} generations")
    if subspace == "pca" and not settings.whiten:
        notes.append("axes of length 1, whatever the words' spread" + (", around the mean word" * settings.add_mean))
    if settings.answer == "luckiest":
        notes.append("the answer is the luckiest candidate of the last generation")
    return tuple(notes)


def _sigma(starts: int, learnable_property: ObjectProperty) -> float:
    """The first step size in spreads of the vocabulary: small about the winner of a race, large about a plain word.

    Measured on the bundled model: about a phrase for an object 0.5 did better than 0.3 and 1; for a style, which lies
    further from what words say, 1 did better than 0.5, 1.5 and 2; about a word 4 did better than 1 to 3.
    """
    if starts == 1:
        return 4.0
    return 1.0 if learnable_property == "style" else 0.5


def _dimension(budget: int, starts: int) -> int:
    """Axes a vector: fewer about the winner of a race, where 64 did better than 128 with 5,000 forwards."""
    return 32 if budget < 1000 else 64 if budget < (20_000 if starts > 1 else 3000) else 128


def _popsize(budget: int) -> int:
    return 8 if budget < 1000 else 12 if budget < 20_000 else 20


def _samples(budget: int) -> int:
    return 4 if budget < 1000 else 8


def _bank(asked: int | None, budget: int, card: ModelCard) -> int:
    """The held-out bank's size: about a fiftieth of the budget, 8 to 256."""
    return min(asked or max(8, min(256, budget // 80)), card.limits.max_samples)


def _checks(settings: InversionSettings, budget: int) -> int:
    """How often the mean is judged; only an answer picked on the held-out bank needs it."""
    if settings.answer != "heldout":
        return 0
    return settings.heldout_checks if settings.heldout_checks is not None else 4 if budget < 2000 else 8
