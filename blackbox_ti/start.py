"""Choosing where the search starts: a shortlist of embeddings, raced on paired losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from blackbox_ti.clip import Clip
from blackbox_ti.concept import Concept
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import InputError
from blackbox_ti.evaluation import Evaluator
from blackbox_ti.initialise import Start, from_attention, from_file, from_word, rank_words, whole_words
from blackbox_ti.plan import InversionSettings
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import ModelCard

__all__ = ["choose_start", "shortlist"]

Q = TypeVar("Q")

_SENTENCE = "a photo of a {}"
_PLAIN_WORDS = ("object", "thing", "picture", "photo", "art", "style")


def shortlist(
    settings: InversionSettings,
    card: ModelCard,
    concept: Concept,
    vocabularies: Mapping[str, Vocabulary],
    clip: Clip | None,
    initial_embedding: Path | None,
) -> list[Start]:
    """Return starts worth racing, the likeliest first; one alone where the user named it.

    With CLIP and the vocabulary at hand: the cross-attention of pictures and words, then the words most like the
    pictures. With the vocabulary alone: the first plain word it has. With neither: the origin.

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
    return _with_clip(settings, concept, vocabularies, clip) if clip else [_plain(vocabularies, settings.num_vectors)]


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


def _with_clip(
    settings: InversionSettings, concept: Concept, vocabularies: Mapping[str, Vocabulary], clip: Clip
) -> list[Start]:
    shared = _shared_words(vocabularies)
    words = next(iter(shared.values())).tokens
    pictures = clip.image_features(concept.images())
    sentences = clip.text_features([_SENTENCE.format(w) for w in words])
    attended = from_attention(
        pictures, sentences, shared, temperature=settings.attention_temperature, norm=settings.attention_norm
    )
    mixed = {n: np.repeat(v, settings.num_vectors, axis=0) for n, v in attended.items()}
    starts = [Start(mixed, "cross-attention of the pictures and the vocabulary")]
    best = rank_words(pictures, sentences)[: settings.race - 1]
    return starts + [from_word(words[i], vocabularies, settings.num_vectors) for i in best]


def _shared_words(vocabularies: Mapping[str, Vocabulary]) -> dict[str, Vocabulary]:
    """The whole words that every encoder has, in one order."""
    tables = {name: whole_words(v) for name, v in vocabularies.items()}
    rows = {name: {w: i for i, w in enumerate(t.tokens)} for name, t in tables.items()}
    words = [w for w in next(iter(tables.values())).tokens if all(w in r for r in rows.values())]
    return {name: Vocabulary(words, t.embeddings[[rows[name][w] for w in words]]) for name, t in tables.items()}


def choose_start(evaluator: Evaluator[Q], starts: Sequence[Start], bank: Sequence[Q]) -> Start:
    """Return the start with the lowest mean loss, all asked on one bank; one alone is not asked."""
    if len(starts) == 1:
        return starts[0]
    stacked: Embedding = {n: np.stack([s.embedding[n] for s in starts]) for n in starts[0].embedding}
    scores = evaluator.scores(stacked, bank, "initialise")
    return starts[int(np.argmin(scores.fitness))]
