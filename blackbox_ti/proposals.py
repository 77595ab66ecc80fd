"""What CLIP proposes to start from: words and phrases it sees in the pictures, and ways to extend one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, count, islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.clip import Clip
from blackbox_ti.concept import Concept
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.initialise import Start, from_attention, from_word, rank_words, whole_words
from blackbox_ti.nudge import nudged
from blackbox_ti.objective import prompts_for
from blackbox_ti.phrase import distil, find_phrases, more_words, shorter_phrases
from blackbox_ti.settings import InversionSettings
from blackbox_ti.subspace import principal_axes
from blackbox_ti.text_tower import TextTower

__all__ = ["EXTENSIONS", "Proposals"]

EXTENSIONS: Final = 12  # of one start

_TEMPLATES = 2
_AXES = 256
_NUDGED_PHRASES, _NUDGES, _NUDGE_AXES = 2, (2, 5), 128
_MOVED = ", moved towards the pictures"


class Proposals:
    """Starts for the pictures of `concept`, in words of `vocabularies`.

    Where `tower` is the host's text encoder, phrases are distilled into one word, and a start can be extended. CLIP is
    asked when a start is.
    """

    def __init__(
        self,
        settings: InversionSettings,
        concept: Concept,
        vocabularies: Mapping[str, Vocabulary],
        clip: Clip,
        tower: TextTower | None = None,
    ) -> None:
        self._settings, self._clip, self._tower, self._vocabularies = settings, clip, tower, vocabularies
        self._concept = concept
        self._templates = prompts_for(settings.learnable_property, "{}")[:_TEMPLATES]

    @property
    def extends(self) -> bool:
        """Whether a start can be extended: only with the host's own text encoder at hand."""
        return self._tower is not None

    def starts(self) -> Iterator[Start]:
        """The cross-attention of pictures and words; phrases, and the longest moved; the words most like the pictures.

        Fitting a word takes time, so each is when it is asked for.
        """
        yield self._attention()
        if self._tower and self._settings.phrases:
            yield from self._phrases(self._tower)
        for word in self._likely:
            yield from_word(word, self._vocabularies, self._settings.num_vectors)

    def extended(self, start: Start) -> list[Start]:
        """Return `EXTENSIONS` starts about one: moved towards the pictures; in plain words; a word shorter; longer.

        CLIP's likeliest words are often right where its likeliest phrase is not, and it points the right way from some
        starts only: what is worth having, the host's losses say.
        """
        assert self._tower is not None
        plain = [start.phrase] * (start.moved and bool(start.phrase)) + shorter_phrases(start.phrase)
        most = EXTENSIONS - len(_NUDGES)
        found = [self._in_one(self._tower, phrase, start) for phrase in plain[:most]]
        ways = more_words(self._clip, self._pictures, self._likely, self._templates[0], start.phrase, most - len(found))
        found += [self._longer(self._tower, start, way) for way in ways]
        others = (step for step in count(1) if step not in _NUDGES)
        steps = list(islice(chain(_NUDGES, others), EXTENSIONS - len(found)))
        return found + self._moved(self._tower, start, steps)

    def _attention(self) -> Start:
        s = self._settings
        attended = from_attention(
            self._pictures, self._sentences, self._shared, temperature=s.attention_temperature, norm=s.attention_norm
        )
        mixed = {n: np.repeat(v, s.num_vectors, axis=0) for n, v in attended.items()}
        return Start(mixed, "cross-attention of the pictures and the vocabulary", moved=True)

    def _phrases(self, tower: TextTower) -> Iterator[Start]:
        """The phrases CLIP sees in the pictures, each as one word of the host's encoder; then the longest moved."""
        phrases = find_phrases(self._clip, self._pictures, self._likely, self._templates[0])
        starts = []
        for phrase in phrases[-self._settings.phrases :]:
            starts.append(self._in_one(tower, phrase))
            yield starts[-1]
        for start in starts[-_NUDGED_PHRASES:]:
            yield from self._moved(tower, start, _NUDGES)

    def _in_one(self, tower: TextTower, phrase: str, near: Start | None = None) -> Start:
        """A phrase as one word; the fit starts from the phrase's own words, or near another start."""
        ((name, vocabulary),) = self._shared.items()
        own = vocabulary.embeddings[[self._words.index(word) for word in phrase.split()]]
        starts = np.repeat(np.concatenate([own.mean(axis=0)[None], own])[:, None], self._settings.num_vectors, axis=1)
        starts = np.concatenate([starts, near.embedding[name][None]]) if near else starts
        targets = {t: tower.text_states(t.format(phrase)) for t in self._templates}
        vectors = distil(tower, targets, starts, self._axes, self._words[:2])
        return Start({name: vectors}, f"the words '{phrase}' in one", phrase)

    def _longer(self, tower: TextTower, start: Start, way: str) -> Start:
        """A start and one word more, said `way`; one that says more than its phrase is itself put among the words."""
        phrase = way.format(start.phrase).strip()
        if not start.moved:
            return self._in_one(tower, phrase, start)
        ((name, vectors),) = start.embedding.items()
        targets = {t: tower.word_states(t.format(way), vectors[None], self._words[:2])[0] for t in self._templates}
        found = distil(tower, targets, vectors[None], self._axes, self._words[:2])
        return Start({name: found}, f"{start.description}, and '{way.format('').strip()}'", phrase, moved=True)

    def _moved(self, tower: TextTower, start: Start, steps: Sequence[int]) -> list[Start]:
        """The start moved towards the pictures by each number of steps."""
        ((name, vectors),) = start.embedding.items()
        axes = self._axes[:_NUDGE_AXES]
        moved = nudged(tower, vectors, self._templates, self._pictures, axes, self._words[:2], steps)
        said = start.description.removesuffix(_MOVED) + _MOVED
        return [Start({name: v}, said, start.phrase, moved=True) for v in moved]

    @cached_property
    def _shared(self) -> dict[str, Vocabulary]:
        return _shared_words(self._vocabularies)

    @cached_property
    def _words(self) -> Sequence[str]:
        return next(iter(self._shared.values())).tokens

    @cached_property
    def _pictures(self) -> NDArray[np.float32]:
        return self._clip.image_features(self._concept.images())

    @cached_property
    def _sentences(self) -> NDArray[np.float32]:
        return self._clip.text_features([self._templates[0].format(w) for w in self._words])

    @cached_property
    def _likely(self) -> list[str]:
        return [self._words[i] for i in rank_words(self._pictures, self._sentences)]

    @cached_property
    def _axes(self) -> NDArray[np.float64]:
        ((_, vocabulary),) = self._shared.items()
        return principal_axes(vocabulary.embeddings, min(_AXES, len(self._words) - 1, vocabulary.embeddings.shape[1]))


def _shared_words(vocabularies: Mapping[str, Vocabulary]) -> dict[str, Vocabulary]:
    """The whole words that every encoder has, in one order."""
    tables = {name: whole_words(v) for name, v in vocabularies.items()}
    rows = {name: {w: i for i, w in enumerate(t.tokens)} for name, t in tables.items()}
    words = [w for w in next(iter(tables.values())).tokens if all(w in r for r in rows.values())]
    return {name: Vocabulary(words, t.embeddings[[rows[name][w] for w in words]]) for name, t in tables.items()}
