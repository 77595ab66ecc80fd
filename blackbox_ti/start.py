"""Choosing where the search starts: a shortlist of embeddings, raced on paired losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.clip import Clip
from blackbox_ti.concept import Concept
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import InputError
from blackbox_ti.evaluation import Evaluator
from blackbox_ti.initialise import Start, from_attention, from_file, from_word, rank_words, whole_words
from blackbox_ti.nudge import nudged
from blackbox_ti.objective import prompts_for
from blackbox_ti.phrase import distil, find_phrases, longer_phrases
from blackbox_ti.settings import InversionSettings
from blackbox_ti.subspace import Embedding, principal_axes
from blackbox_ti.text_tower import TextTower
from blackbox_ti.wire import ModelCard

__all__ = ["choose_start", "shortlist"]

Q = TypeVar("Q")

_TEMPLATES = 2
_AXES = 256
_NUDGED_PHRASES, _NUDGES, _NUDGE_AXES = 2, (2, 5), 128
_PLAIN_WORDS = ("object", "thing", "picture", "photo", "art", "style")


def shortlist(
    settings: InversionSettings,
    card: ModelCard,
    concept: Concept,
    vocabularies: Mapping[str, Vocabulary],
    clip: Clip | None,
    initial_embedding: Path | None,
    tower: TextTower | None = None,
) -> list[Start]:
    """Return up to `settings.race` starts worth racing; one alone where the user named it.

    With CLIP and the vocabulary at hand: the cross-attention of pictures and words, where `tower` is the host's text
    encoder phrases distilled into one word, then the words most like the pictures. With the vocabulary alone: the first
    plain word it has. With neither: the origin.

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
    if clip is None:
        return [_plain(vocabularies, settings.num_vectors)]
    return _with_clip(settings, concept, vocabularies, clip, tower)


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
    settings: InversionSettings,
    concept: Concept,
    vocabularies: Mapping[str, Vocabulary],
    clip: Clip,
    tower: TextTower | None,
) -> list[Start]:
    shared = _shared_words(vocabularies)
    words = next(iter(shared.values())).tokens
    pictures = clip.image_features(concept.images())
    sentence = prompts_for(settings.learnable_property, "{}")[0]
    sentences = clip.text_features([sentence.format(w) for w in words])
    attended = from_attention(
        pictures, sentences, shared, temperature=settings.attention_temperature, norm=settings.attention_norm
    )
    mixed = {n: np.repeat(v, settings.num_vectors, axis=0) for n, v in attended.items()}
    attention = Start(mixed, "cross-attention of the pictures and the vocabulary")
    likely = [words[i] for i in rank_words(pictures, sentences)]
    phrases = _phrases(settings, clip, tower, pictures, likely, shared) if tower and settings.phrases else ()
    named = (from_word(word, vocabularies, settings.num_vectors) for word in likely)
    return list(islice(chain([attention], phrases, named), settings.race))


def _phrases(
    settings: InversionSettings,
    clip: Clip,
    tower: TextTower,
    pictures: NDArray[np.float32],
    likely: Sequence[str],
    words: Mapping[str, Vocabulary],
) -> Iterator[Start]:
    """The phrases CLIP sees in the pictures, each as one word of the host's encoder; the longest moved on; longer."""
    ((name, vocabulary),) = words.items()
    rows = {word: i for i, word in enumerate(vocabulary.tokens)}
    axes = principal_axes(vocabulary.embeddings, min(_AXES, len(rows) - 1, vocabulary.embeddings.shape[1]))
    templates, stand_ins = prompts_for(settings.learnable_property, "{}")[:_TEMPLATES], vocabulary.tokens[:2]

    def in_one(phrase: str, near: NDArray[np.float32] | None = None) -> Start:
        own = vocabulary.embeddings[[rows[word] for word in phrase.split()]]
        found = distil(tower, phrase, templates, own, axes, stand_ins, settings.num_vectors, near)
        return Start({name: found.vectors}, f"the words '{phrase}' in one")

    phrases = find_phrases(clip, pictures, likely, templates[0])[-settings.phrases :]
    starts = []
    for phrase in phrases:
        starts.append(in_one(phrase))
        yield starts[-1]
    for start in starts[-_NUDGED_PHRASES:]:
        for v in nudged(tower, start.embedding[name], templates, pictures, axes[:_NUDGE_AXES], stand_ins, _NUDGES):
            yield Start({name: v}, f"{start.description}, moved towards the pictures")
    if phrases:
        for phrase in longer_phrases(clip, pictures, likely, templates[0], phrases[-1], settings.longer_phrases):
            yield in_one(phrase, starts[-1].embedding[name])


def _shared_words(vocabularies: Mapping[str, Vocabulary]) -> dict[str, Vocabulary]:
    """The whole words that every encoder has, in one order."""
    tables = {name: whole_words(v) for name, v in vocabularies.items()}
    rows = {name: {w: i for i, w in enumerate(t.tokens)} for name, t in tables.items()}
    words = [w for w in next(iter(tables.values())).tokens if all(w in r for r in rows.values())]
    return {name: Vocabulary(words, t.embeddings[[rows[name][w] for w in words]]) for name, t in tables.items()}


def choose_start(
    evaluator: Evaluator[Q],
    starts: Sequence[Start],
    races: Sequence[tuple[int, int]],
    bank: Callable[[int, int], Sequence[Q]],
) -> Start:
    """Return the start with the lowest mean loss in the last of `races`, each (starts, samples).

    A race is between the best of the one before, all asked on `bank(samples, index of the race)`; without a race the
    first start wins.
    """
    for turn, (count, samples) in enumerate(races):
        label = f"initialise/{turn}" if turn else "initialise"
        starts = _raced(evaluator, starts[:count], bank(samples, turn), label)
    return starts[0]


def _raced(evaluator: Evaluator[Q], starts: Sequence[Start], bank: Sequence[Q], label: str) -> list[Start]:
    """The starts by their mean loss on a bank, the lowest first."""
    stacked: Embedding = {n: np.stack([s.embedding[n] for s in starts]) for n in starts[0].embedding}
    order = np.argsort(evaluator.scores(stacked, bank, label).fitness, kind="stable")
    return [starts[i] for i in order]
