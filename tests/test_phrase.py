"""Phrases seen in pictures, distilled into one word."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.clip import Clip
from blackbox_ti.initialise import whole_words
from blackbox_ti.phrase import distil, find_phrases, longer_phrases
from blackbox_ti.subspace import principal_axes
from blackbox_ti.text_tower import TextTower
from server_stub.tiny import CLIP_DIR
from server_stub.tiny.world import concept_scenes, render

TEMPLATE = "a photo of a {}"


@pytest.fixture(scope="module")
def clip() -> Clip:
    """The bundled CLIP."""
    return Clip(CLIP_DIR)


def test_a_phrase_is_likelier_than_its_words(clip: Clip) -> None:
    """Each phrase found has one word more than the last, and says more of the pictures than any word alone."""
    scenes = concept_scenes(("heart", "orange", "striped"), 4, 0)
    pictures = clip.image_features([Image.fromarray(render(s)) for s in scenes])
    words = ["heart", "orange", "striped", "house", "blue", "plain"]
    phrases = find_phrases(clip, pictures, words, TEMPLATE)
    assert [len(p.split()) for p in phrases] == [2, 3, 4]
    similarity = clip.text_features([TEMPLATE.format(p) for p in (*phrases, *words)]) @ pictures.mean(axis=0)
    assert similarity[: len(phrases)].max() > similarity[len(phrases) :].max()


def test_few_words_make_few_phrases(clip: Clip) -> None:
    """No phrase says a word twice, so two words make one phrase and one makes none."""
    pictures = np.zeros((1, 256), np.float32)
    assert len(find_phrases(clip, pictures, ["red", "heart"], TEMPLATE)) == 1
    assert find_phrases(clip, pictures, ["red"], TEMPLATE) == []


def test_longer_phrases_say_what_the_phrase_leaves_out(clip: Clip) -> None:
    """One word more each, none said twice, and other sides of the picture before synonyms of what is there."""
    scenes = concept_scenes(("heart", "orange", "striped"), 4, 0)
    pictures = clip.image_features([Image.fromarray(render(s)) for s in scenes])
    words = ["striped", "stripes", "stripy", "heart", "orange", "lined"]
    longer = longer_phrases(clip, pictures, words, TEMPLATE, "striped orange", 2)
    assert set(longer[0].split()) == {"striped", "orange", "heart"}
    assert all("striped orange" in p and len(p.split()) == 3 for p in longer)
    assert len(longer_phrases(clip, pictures, words, TEMPLATE, "striped orange", 9)) == 4


@pytest.mark.parametrize("phrase", ["white dotted flower", "spots pale flower", "chessboard crown chequered crimson"])
def test_a_word_is_fitted_until_it_says_what_the_phrase_says(clip: Clip, phrase: str) -> None:
    """Phrases far from any of their words are reached too, from a word near by as well, and at a word's length."""
    tower = TextTower(clip)
    words = whole_words(tower.vocabulary())
    own = words.embeddings[[list(words.tokens).index(w) for w in phrase.split()]]
    axes = principal_axes(words.embeddings, 255)
    found = distil(tower, phrase, [TEMPLATE], own, axes, words.tokens[:2], 1)
    assert found.residual < 0.04
    assert np.linalg.norm(found.vectors) < 3 * np.linalg.norm(own, axis=1).max()
    near = distil(tower, phrase, [TEMPLATE], own, axes, words.tokens[:2], 1, found.vectors)
    assert near.residual <= found.residual + 1e-6


@pytest.mark.parametrize("num_vectors", [1, 2])
def test_one_word_does_what_the_phrase_does(clip: Clip, num_vectors: int) -> None:
    """The distilled word misses less than half of what the best of the phrase's own words misses."""
    tower = TextTower(clip)
    words = whole_words(tower.vocabulary())
    own = words.embeddings[[list(words.tokens).index(w) for w in ("orange", "heart")]]
    axes = principal_axes(words.embeddings, 64)
    found = distil(tower, "orange heart", [TEMPLATE], own, axes, words.tokens[:2], num_vectors)
    assert found.vectors.shape == (num_vectors, 256)
    target = tower.text_states(TEMPLATE.format("orange heart"))

    def miss(vectors: NDArray[np.float32]) -> float:
        return float(np.square(tower.word_states(TEMPLATE, vectors[None], words.tokens[:2])[0] - target).sum())

    assert miss(found.vectors) < 0.5 * min(miss(np.repeat(w[None], num_vectors, axis=0)) for w in own)
