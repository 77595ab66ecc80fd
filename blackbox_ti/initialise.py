"""The starting embedding: from a word, a file, or the vocabulary by cross-attention between pictures and words.

The paper (arXiv 2304.05818, section 3.2) attends without parameters: queries are features of the pictures, keys are
features of a sentence about each word, values are the words' embeddings. A softmax over raw cosines is nearly uniform,
so a temperature sharpens it, and the result is brought back to the norm that words have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import InputError, PlaceholderError
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import Encoder

__all__ = [
    "Start",
    "check_placeholder",
    "from_attention",
    "from_file",
    "from_word",
    "rank_words",
    "whole_words",
]

Array = NDArray[np.float32]
_WORD_END = "</w>"  # CLIP's
_WORD_START = "\u2581"  # SentencePiece's
MAX_WORDS = 8000


@dataclass(frozen=True)
class Start:
    """A starting embedding, in words where it comes from, the words it says, and whether it says more than they do."""

    embedding: Embedding
    description: str
    phrase: str = ""
    moved: bool = False


def check_placeholder(placeholder_token: str, vocabularies: Mapping[str, Vocabulary]) -> None:
    """Raise PlaceholderError unless the placeholder can be a new word: one piece, and no token of the model."""
    if not placeholder_token or any(c.isspace() for c in placeholder_token) or len(placeholder_token) > 64:
        raise PlaceholderError("a placeholder is one word of up to 64 characters without spaces, such as '<sks>'")
    lowered = placeholder_token.lower()
    for vocabulary in vocabularies.values():
        taken = set(vocabulary.tokens)
        if lowered + _WORD_END in taken or lowered in taken or placeholder_token in taken:
            raise PlaceholderError(
                f"'{placeholder_token}' is already a token of the model; choose another, like '<sks>'"
            )


def whole_words(vocabulary: Vocabulary) -> Vocabulary:
    """Return the rows that are whole alphabetic words of two letters or more, the commonest first, without markers.

    Byte-pair tables are ordered by frequency; the first 8,000 words are kept. A table without markers holds words.
    """
    marked = any(_is_marked(token) for token in vocabulary.tokens)
    rows = [i for i, t in enumerate(vocabulary.tokens) if _is_word(t) and (_is_marked(t) or not marked)][:MAX_WORDS]
    return Vocabulary([_bare(vocabulary.tokens[i]) for i in rows], vocabulary.embeddings[rows])


def _bare(token: str) -> str:
    return token.removesuffix(_WORD_END).removeprefix(_WORD_START)


def _is_marked(token: str) -> bool:
    return token.endswith(_WORD_END) or token.startswith(_WORD_START)


def _is_word(token: str) -> bool:
    bare = _bare(token)
    return len(bare) > 1 and bare.isascii() and bare.isalpha()


def from_word(word: str, vocabularies: Mapping[str, Vocabulary], num_vectors: int) -> Start:
    """Return the embedding of a word in every encoder, repeated for each vector.

    Raises:
        InputError: the word is not one token of an encoder.
    """
    embedding: Embedding = {}
    for name, vocabulary in vocabularies.items():
        index = {token: i for i, token in enumerate(vocabulary.tokens)}
        row = next((index[t] for t in (word.lower() + _WORD_END, _WORD_START + word.lower(), word) if t in index), None)
        if row is None:
            raise InputError(f"'{word}' is not a single token of {name}; choose a plainer word, or 'auto'")
        embedding[name] = np.repeat(vocabulary.embeddings[row][None], num_vectors, axis=0)
    return Start(embedding, f"the word '{word}'", word)


def from_file(path: Path, encoders: Sequence[Encoder], num_vectors: int) -> Start:
    """Return the embedding a safetensors file holds: one tensor (D,) or (T, D), or one named after each encoder.

    Raises:
        InputError: the file cannot be read, or its shapes are not the model's.
    """
    from blackbox_ti.embedding import load_embedding

    loaded = load_embedding(path, encoders)
    embedding = {}
    for name, value in loaded.items():
        if value.shape[0] not in (1, num_vectors):
            raise InputError(f"{path} holds {value.shape[0]} vectors, not {num_vectors}; set --num-vectors to match")
        embedding[name] = np.repeat(value, num_vectors // value.shape[0], axis=0)
    return Start(embedding, f"the file {path.name}")


def rank_words(image_features: Array, text_features: Array) -> NDArray[np.int64]:
    """Return word indices (V,), the best first, by cosine of the mean picture (n, C) and each sentence (V, C)."""
    centred = text_features - text_features.mean(axis=0)
    return np.argsort(-(centred @ image_features.mean(axis=0)), kind="stable")


def from_attention(
    image_features: Array,
    text_features: Array,
    vocabularies: Mapping[str, Vocabulary],
    *,
    temperature: float = 0.02,
    norm: Literal["words", "unit"] = "words",
) -> Embedding:
    """Return the attention-weighted mean of word embeddings, (1, D) an encoder, at the words' mean norm, or at 1.

    `image_features` (n, C) and `text_features` (V, C) are unit vectors; row v of every vocabulary is word v.
    """
    logits = (image_features @ text_features.T).astype(np.float64) / temperature
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)
    embedding = {}
    for name, vocabulary in vocabularies.items():
        mixed = weights @ vocabulary.embeddings.astype(np.float64)
        length = np.linalg.norm(vocabulary.embeddings, axis=1).mean() if norm == "words" else 1.0
        embedding[name] = (mixed * length / max(np.linalg.norm(mixed), 1e-12)).astype(np.float32)[None]
    return embedding
