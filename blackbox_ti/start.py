"""Choosing where the search starts: a shortlist of embeddings, raced on paired losses; and the winner extended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import InputError
from blackbox_ti.evaluation import Evaluator
from blackbox_ti.initialise import Start, from_file, from_word
from blackbox_ti.plan import Race
from blackbox_ti.proposals import Proposals
from blackbox_ti.settings import InversionSettings
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import ModelCard

__all__ = ["choose_start", "shortlist"]

Q = TypeVar("Q")

_PLAIN_WORDS = ("object", "thing", "picture", "photo", "art", "style")


def shortlist(
    settings: InversionSettings,
    card: ModelCard,
    vocabularies: Mapping[str, Vocabulary],
    proposals: Proposals | None,
    initial_embedding: Path | None,
) -> list[Start]:
    """Return up to `settings.race` starts worth racing; one alone where the user named it.

    With CLIP and the vocabulary at hand these are `proposals`. With the vocabulary alone: the first plain word it has.
    With neither: the origin.

    Raises:
        InputError: a word was named, and the host offers no vocabulary to look it up in.
    """
    if initial_embedding is not None:
        return [from_file(initial_embedding, card.encoders, settings.num_vectors)]
    if settings.initializer_token != "auto":  # noqa: S105
        if not vocabularies:
            raise InputError(
                "this host offers no vocabulary, so a word cannot be looked up; give --initial-embedding FILE, "
                "or --initializer-token auto to start from the origin"
            )
        return [from_word(settings.initializer_token, vocabularies, settings.num_vectors)]
    if not vocabularies:
        return [_origin(card, settings.num_vectors)]
    if proposals is None:
        return [_plain(vocabularies, settings.num_vectors)]
    return list(islice(proposals.starts(), settings.race))


def _origin(card: ModelCard, num_vectors: int) -> Start:
    zeros = {e.name: np.zeros((num_vectors, e.dim), dtype=np.float32) for e in card.encoders}
    return Start(zeros, "the origin: the host offers no vocabulary")


def _plain(vocabularies: Mapping[str, Vocabulary], num_vectors: int) -> Start:
    for word in _PLAIN_WORDS:
        try:
            return from_word(word, vocabularies, num_vectors)
        except InputError:
            continue
    raise InputError("the vocabulary has no plain word to start from; name one with --initializer-token")


def choose_start(
    evaluator: Evaluator[Q],
    starts: Sequence[Start],
    races: Sequence[Race],
    bank: Callable[[int, int], Sequence[Q]],
    extended: Callable[[Start], Sequence[Start]] | None = None,
    on_round: Callable[[int], None] = lambda _: None,
) -> Start:
    """Return the start with the lowest mean loss in the last round of the last of `races`.

    The first race is between `starts`, each other between what the winner of the one before is `extended` to, and in
    its last round the winner itself. A round is between the best of the one before, all asked on `bank(samples, index
    of the round)`; without a race the first start wins. `on_round` hears how many rounds are over.
    """
    field, holder, turn = list(starts), list[Start](), 0
    for number, rounds in enumerate(races):
        if number:
            assert extended is not None
            holder = field[:1]
            field = list(extended(field[0]))
        for left, (count, samples) in zip(reversed(range(len(rounds))), rounds, strict=True):
            joining = [] if left else holder
            rivals = [*joining, *field[: count - len(joining)]]
            field = _raced(evaluator, rivals, bank(samples, turn), f"initialise/{turn}" if turn else "initialise")
            turn += 1
            on_round(turn)
    return field[0]


def _raced(evaluator: Evaluator[Q], starts: Sequence[Start], bank: Sequence[Q], label: str) -> list[Start]:
    """The starts by their mean loss on a bank, the lowest first."""
    stacked: Embedding = {n: np.stack([s.embedding[n] for s in starts]) for n in starts[0].embedding}
    order = np.argsort(evaluator.scores(stacked, bank, label).fitness, kind="stable")
    return [starts[i] for i in order]
