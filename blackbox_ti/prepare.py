"""Everything a run needs before its first charged call: pictures, starts, plan, and what judges candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from blackbox_ti.clip import Clip
from blackbox_ti.concept import Concept, load_concept
from blackbox_ti.endpoint import Endpoint, Vocabulary
from blackbox_ti.errors import InputError
from blackbox_ti.evaluation import LossEvaluator
from blackbox_ti.image_evaluation import ImageEvaluator
from blackbox_ti.initialise import Start, check_placeholder, whole_words
from blackbox_ti.objective import prompts_for
from blackbox_ti.plan import Plan, affordable_race, make_plan
from blackbox_ti.proposals import Proposals
from blackbox_ti.scorers import ClipScorer, Scorer, checked_scores, load_scorer
from blackbox_ti.settings import InversionSettings, objective_of
from blackbox_ti.start import shortlist
from blackbox_ti.subspace import Embedding, Subspace, full_subspace, pca_subspace, random_subspace
from blackbox_ti.text_tower import matching_tower
from blackbox_ti.timesteps import Focus
from blackbox_ti.wire import ModelCard

__all__ = ["Prepared", "choose_scorer", "image_evaluator", "loss_evaluator", "prepare", "search_subspace"]


@dataclass(frozen=True)
class Prepared:
    """The starts that will race, what extends their winner, the plan, and where pictures are asked for their judge."""

    card: ModelCard
    concept: Concept
    vocabularies: Mapping[str, Vocabulary]
    starts: Sequence[Start]
    plan: Plan
    scorer: Scorer | None = None
    extended: Callable[[Start], Sequence[Start]] | None = None


def prepare(
    endpoint: Endpoint,
    images: Path | Sequence[Path | Image.Image],
    settings: InversionSettings,
    *,
    clip: Clip | None = None,
    scorer: Scorer | None = None,
    initial_embedding: Path | None = None,
) -> Prepared:
    """Return what `invert` would do, at no cost: nothing is charged, and no picture leaves the machine.

    Raises:
        InputError: pictures, placeholder, scorer or settings cannot be used.
        BudgetTooSmallError: `settings.max_forwards` does not pay for one generation.
    """
    card = endpoint.describe()
    check_placeholder(settings.placeholder_token, {})
    concept = load_concept(images, card.resolution)
    judge = choose_scorer(settings, card, concept, clip, scorer)
    vocabularies = _vocabularies(endpoint, card)
    tower = matching_tower(clip, card, vocabularies)
    if tower and not vocabularies:
        vocabularies = {card.encoders[0].name: tower.vocabulary()}
    check_placeholder(settings.placeholder_token, vocabularies)
    known = min((len(whole_words(v).tokens) for v in vocabularies.values()), default=0)
    # Fitting a word takes time, so none that will not race.
    raced = settings.model_copy(update={"race": affordable_race(settings, card)})
    seen = Proposals(settings, concept, vocabularies, clip, tower) if clip and vocabularies else None
    starts = shortlist(raced, card, vocabularies, seen, initial_embedding)
    extended = seen.extended if seen and seen.extends else None
    plan = make_plan(settings, card, vocabulary=known, words=len(starts), extends=extended is not None)
    return Prepared(card, concept, vocabularies, starts[: plan.race], plan, judge, extended)


def _vocabularies(endpoint: Endpoint, card: ModelCard) -> dict[str, Vocabulary]:
    """Every encoder's token table, or none: half a vocabulary starts no search."""
    found = {e.name: endpoint.vocabulary(e.name) for e in card.encoders} if card.vocabulary else {}
    return {name: table for name, table in found.items() if table is not None} if all(found.values()) else {}


def choose_scorer(
    settings: InversionSettings, card: ModelCard, concept: Concept, clip: Clip | None, scorer: Scorer | None = None
) -> Scorer | None:
    """Return the scorer given, the one named, or CLIP's; None where the host is asked for losses.

    It is tried on the reference pictures, where a mistake in it costs nothing.

    Raises:
        InputError: the host does not offer the objective, or there is nothing to judge pictures by.
        ScorerError: the scorer is not there, or does not score.
    """
    if objective_of(settings, card) == "loss":
        if scorer is not None or settings.scorer is not None:
            raise InputError("a scorer judges pictures, and this host is asked for losses; add --objective images")
        return None
    word = settings.initializer_token
    references = concept.images()
    if scorer is None and settings.scorer is not None:
        scorer = load_scorer(settings.scorer)
    if scorer is None:
        if clip is None:
            raise InputError("a host is asked for pictures, and nothing here judges them; give --clip or --scorer")
        scorer = ClipScorer(
            clip,
            references,
            image_weight=settings.image_weight,
            text_weight=settings.text_weight,
            placeholder_token=settings.placeholder_token,
            class_word=None if word == "auto" else word,
        )
    prompts = prompts_for(settings.learnable_property, settings.placeholder_token)
    checked_scores(scorer, references, [prompts[0]] * len(references))
    return scorer


def loss_evaluator(endpoint: Endpoint, ready: Prepared, settings: InversionSettings, concept: str) -> LossEvaluator:
    """Return what asks for losses on the pictures registered as `concept`."""
    return LossEvaluator(
        endpoint,
        ready.card,
        concept,
        settings.placeholder_token,
        prompts_for(settings.learnable_property, settings.placeholder_token),
        images=len(ready.concept.pngs),
        t_min=settings.t_min,
        t_max=settings.t_max,
        prompts_at_once=settings.prompts_at_once,
        focus=Focus() if settings.timestep_sampling == "adaptive" else None,
    )


def image_evaluator(endpoint: Endpoint, ready: Prepared, settings: InversionSettings, scorer: Scorer) -> ImageEvaluator:
    """Return what asks for pictures; the reference pictures stay with the scorer."""
    assert ready.plan.pictures is not None
    prompts = prompts_for(settings.learnable_property, settings.placeholder_token)
    return ImageEvaluator(endpoint, ready.card, settings.placeholder_token, prompts, ready.plan.pictures, scorer)


def search_subspace(
    ready: Prepared, origin: Embedding, settings: InversionSettings, rng: np.random.Generator
) -> Subspace:
    """Return the space to search around `origin`, encoder -> (T, D); `rng` draws random directions."""
    plan, card = ready.plan, ready.card
    per_vector = plan.dimension // (settings.num_vectors * len(card.encoders))
    if plan.subspace == "pca":
        words = {n: whole_words(v) for n, v in ready.vocabularies.items()}
        return pca_subspace(origin, words, per_vector, whiten=settings.whiten, add_mean=settings.add_mean)
    if plan.subspace == "random":
        return random_subspace(origin, card.encoders, per_vector, rng)
    return full_subspace(origin, card.encoders)
