"""Text encoders: what a placeholder is, how it is spelt for the encoder, and whose vectors it stands for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import CLIPTextModel

from server_stub.text_encoder import MAX_VECTORS, PlaceholderEmbedding, TextEncoder
from tests.server_stub.tiny_models import CONTEXT, WIDTH, WORDS, clip_config, clip_tokenizer, t5_encoder, t5_tokenizer

WORD = "<sks>"


def _clip(folder: Path) -> TextEncoder:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    return TextEncoder("text_encoder", CLIPTextModel(clip_config(tokenizer)), tokenizer)


@pytest.fixture(scope="module", name="clip")
def _clip_fixture(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return _clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module", name="t5")
def _t5() -> TextEncoder:
    torch.manual_seed(0)
    tokenizer = t5_tokenizer()
    return TextEncoder("text_encoder_3", t5_encoder(tokenizer, 24), tokenizer, max_length=20)


def test_ids_below_the_first_reserved_one_are_looked_up_as_ever() -> None:
    """A table with placeholders is the plain table for other ids, and each row's own vectors for reserved ones."""
    plain = nn.Embedding(6, 3)
    table = PlaceholderEmbedding(plain, 6)
    ids = torch.tensor([[0, 6, 5], [7, 1, 6]])
    vectors = torch.arange(12.0).reshape(2, 2, 3)
    assert torch.equal(table(ids[:, 2:].clamp(max=5)), plain(ids[:, 2:].clamp(max=5)))
    table.vectors = vectors
    found = table(ids)
    assert torch.equal(found[0], torch.stack([plain.weight[0], vectors[0, 0], plain.weight[5]]))
    assert torch.equal(found[1], torch.stack([vectors[1, 1], plain.weight[1], vectors[1, 0]]))


def test_vectors_are_let_go_after_an_error_too(clip: TextEncoder) -> None:
    """Tokens stand for vectors only inside the context, however it is left."""
    with pytest.raises(RuntimeError, match="torn"), clip.holding(torch.zeros(1, 1, WIDTH)):
        raise RuntimeError("torn")
    assert clip.embedding.vectors is None


@pytest.mark.parametrize("encoder", ["clip", "t5"])
def test_a_word_takes_as_many_tokens_as_it_has_vectors(request: pytest.FixtureRequest, encoder: str) -> None:
    """One vector more is one token more, for each time the word occurs, and as many reserved ids in the batch."""
    text: TextEncoder = request.getfixturevalue(encoder)
    counts = [text.count(text.substitute(f"a {WORD} dog {WORD}", WORD, vectors)) for vectors in (1, 2, 3)]
    assert np.diff(counts).tolist() == [2, 2]
    ids = text.tokenize([text.substitute(f"a {WORD} dog", WORD, 3)])
    assert ids.shape == (1, text.max_length)
    first = text.embedding.first
    assert ids[ids >= first].tolist() == [first, first + 1, first + 2]


def test_numbered_words_are_single_vectors(clip: TextEncoder) -> None:
    """`<sks>_2` is the third vector alone, and means nothing of the kind where the word has only two."""
    three, two = clip.substitute(f"{WORD}_2", WORD, 3), clip.substitute(f"{WORD}_2", WORD, 2)
    assert three == "<bti:2>"
    assert two.endswith("_2")


def test_case_is_folded_as_the_tokenizer_folds_it(clip: TextEncoder, t5: TextEncoder) -> None:
    """CLIP reads both cases alike, so its placeholder is found in either; T5 tells them apart."""
    assert clip.substitute("a <SKS>", WORD, 1) == clip.substitute("a <sks>", WORD, 1)
    assert t5.substitute("a <SKS>", WORD, 1) == "a <SKS>"


@settings(max_examples=60, deadline=None)
@given(prompt=st.text(max_size=40), vectors=st.integers(1, 8))
def test_a_prompt_without_the_word_holds_no_vectors(clip: TextEncoder, prompt: str, vectors: int) -> None:
    """No prompt reaches a reserved token but through the placeholder, and none is longer than the encoder's room."""
    spelt = clip.substitute(prompt.replace(WORD, "") + " <bti:3>", WORD, vectors)
    ids = clip.tokenize([spelt])
    assert ids.shape == (1, CONTEXT)
    if not re.search(re.escape(WORD), prompt, re.IGNORECASE):
        assert (ids < clip.embedding.first).all()


@pytest.mark.parametrize("vectors", [0, MAX_VECTORS + 1])
def test_more_vectors_than_tokens_are_refused(clip: TextEncoder, vectors: int) -> None:
    """A word has at least one vector and at most as many as tokens are reserved."""
    with pytest.raises(ValueError, match="1 to 64"):
        clip.substitute(WORD, WORD, vectors)


def test_the_vocabulary_is_the_tokenizers_own(clip: TextEncoder) -> None:
    """Tokens and their rows come in the order of ids, without the reserved ones; the card tells width and norms."""
    tokens, rows = clip.vocabulary()
    assert rows.shape == (len(tokens), WIDTH)
    assert not any(token.startswith("<bti") for token in tokens)
    dog = tokens.index("dog</w>")
    assert clip.is_token("dog")
    np.testing.assert_array_equal(rows[dog], clip.embedding.weight[dog].detach().numpy())
    card = clip.card()
    assert (card.name, card.dim) == ("text_encoder", WIDTH)
    assert card.norm_mean == pytest.approx(np.linalg.norm(rows, axis=1).mean(), rel=0.2)
    assert set(tokens) >= {word + "</w>" for word in WORDS}
