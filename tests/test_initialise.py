"""Starting embeddings: words, files, attention; and placeholders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blackbox_ti.embedding import save_embedding
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import InputError, PlaceholderError
from blackbox_ti.initialise import check_placeholder, from_attention, from_file, from_word, rank_words, whole_words
from blackbox_ti.wire import Encoder

TOKENS = ["a", "re", "red</w>", "blue</w>", "x</w>", "9</w>", "caf\u00e9</w>", "\u2581green", "<|endoftext|>"]
TABLE = np.random.default_rng(0).normal(size=(len(TOKENS), 4)).astype(np.float32)
VOCABULARY = Vocabulary(TOKENS, TABLE)
ENCODER = Encoder(name="text", dim=4, norm_mean=2.0, norm_std=0.1)


def test_whole_words_leave_pieces_digits_and_marks_out() -> None:
    """Only ASCII words of two letters or more that the table marks as whole are kept, with their own rows."""
    words = whole_words(VOCABULARY)
    assert list(words.tokens) == ["red", "blue", "green"]
    assert np.array_equal(words.embeddings, TABLE[[2, 3, 7]])


def test_a_table_without_marks_holds_words() -> None:
    """A plain word list is taken as it is."""
    assert list(whole_words(Vocabulary(["cat", "b", "dog"], TABLE[:3])).tokens) == ["cat", "dog"]


@pytest.mark.parametrize("word", ["red", "RED", "green", "a"])
def test_a_word_is_found_however_the_table_writes_it(word: str) -> None:
    """Case and markers do not matter; the row is repeated for every vector."""
    start = from_word(word, {"text": VOCABULARY}, 3)
    assert start.embedding["text"].shape == (3, 4)
    assert word in start.description
    assert any(np.array_equal(start.embedding["text"][2], row) for row in TABLE)


def test_an_unknown_word_is_named() -> None:
    """The error names the word and the encoder."""
    with pytest.raises(InputError, match="'zebra' is not a single token of text"):
        from_word("zebra", {"text": VOCABULARY}, 1)


@pytest.mark.parametrize("word", ["red", "Red", "<|endoftext|>", "", "two words", "tab\t", "x" * 65])
def test_a_placeholder_is_one_new_word(word: str) -> None:
    """Tokens of the model, spaces and nothing are refused."""
    with pytest.raises(PlaceholderError):
        check_placeholder(word, {"text": VOCABULARY})


@pytest.mark.parametrize("word", ["<sks>", "redish", "*"])
def test_a_new_word_may_be_a_placeholder(word: str) -> None:
    """Anything the model does not know is free."""
    check_placeholder(word, {"text": VOCABULARY})


def _features(rows: list[list[float]]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    array = np.array(rows, dtype=np.float32)
    return np.asarray(array / np.linalg.norm(array, axis=1, keepdims=True), dtype=np.float32)


def test_attention_goes_to_the_words_most_like_the_pictures() -> None:
    """Cold attention is the nearest word; warm attention is nearly the mean of all."""
    words = Vocabulary(["red", "blue", "green"], TABLE[[2, 3, 7]])
    pictures, sentences = _features([[1, 0.1, 0]]), _features([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    cold = from_attention(pictures, sentences, {"text": words}, temperature=0.001)["text"][0]
    norm = np.linalg.norm(words.embeddings, axis=1).mean()
    assert np.allclose(cold, words.embeddings[1] / np.linalg.norm(words.embeddings[1]) * norm, atol=1e-5)
    warm = from_attention(pictures, sentences, {"text": words}, temperature=1000.0)["text"][0]
    mean = words.embeddings.mean(axis=0)
    assert np.allclose(warm, mean / np.linalg.norm(mean) * norm, atol=1e-2)


def test_words_are_ranked_by_likeness_to_the_pictures() -> None:
    """The word whose sentence points where the pictures do comes first."""
    order = rank_words(_features([[1, 0.2, 0], [1, 0, 0.2]]), _features([[0, 1, 0], [1, 0, 0], [-1, 0, 0]]))
    assert list(order) == [1, 0, 2]


def test_a_file_starts_where_it_ended(tmp_path: Path) -> None:
    """A saved word is a start; one vector is repeated, another number is refused."""
    path = save_embedding(tmp_path, "<old>", {"text": TABLE[:1]}, {})
    start = from_file(path, [ENCODER], 2)
    assert np.array_equal(start.embedding["text"], np.repeat(TABLE[:1], 2, axis=0))
    two = save_embedding(tmp_path, "<old>", {"text": TABLE[:2]}, {})
    with pytest.raises(InputError, match="--num-vectors"):
        from_file(two, [ENCODER], 3)


def test_the_reference_codes_attention_has_length_one() -> None:
    """Its direction is the same; only the length differs."""
    words = Vocabulary(["red", "blue", "green"], TABLE[[2, 3, 7]])
    pictures, sentences = _features([[1, 0.1, 0]]), _features([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    ours = from_attention(pictures, sentences, {"text": words}, temperature=1.0)["text"][0]
    unit = from_attention(pictures, sentences, {"text": words}, temperature=1.0, norm="unit")["text"][0]
    assert np.isclose(np.linalg.norm(unit), 1.0)
    assert np.allclose(unit, ours / np.linalg.norm(ours), atol=1e-6)
