"""Phrases seen in pictures, distilled into one word."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.clip import Clip
from blackbox_ti.initialise import whole_words
from blackbox_ti.phrase import distil, find_phrases, more_words, shorter_phrases
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


def test_a_word_more_says_what_the_phrase_leaves_out(clip: Clip) -> None:
    """None is said twice, and other sides of the picture come before synonyms of what is there."""
    scenes = concept_scenes(("heart", "orange", "striped"), 4, 0)
    pictures = clip.image_features([Image.fromarray(render(s)) for s in scenes])
    words = ["striped", "stripes", "stripy", "heart", "orange", "lined"]
    ways = more_words(clip, pictures, words, TEMPLATE, "striped orange", 2)
    assert set(ways[0].split()) == {"{}", "heart"}
    every = more_words(clip, pictures, words, TEMPLATE, "striped orange", 9)
    assert every[:2] == ways
    assert sorted(way.format("").strip() for way in every) == ["heart", "lined", "stripes", "stripy"]


def test_of_no_words_the_likeliest_is_the_first_to_be_said(clip: Clip) -> None:
    """The others follow by how little they are like it."""
    pictures = np.ones((1, 256), np.float32)
    ways = more_words(clip, pictures, ["striped", "stripy", "heart"], TEMPLATE, "", 3)
    assert [way.format("").strip() for way in ways] == ["striped", "heart", "stripy"]


def test_where_no_word_is_left_or_wanted_none_is_said(clip: Clip) -> None:
    """CLIP is not asked about nothing."""
    pictures = np.ones((1, 256), np.float32)
    assert more_words(clip, pictures, ["striped"], TEMPLATE, "striped", 3) == []
    assert more_words(clip, pictures, ["striped", "heart"], TEMPLATE, "striped", 0) == []


def test_each_word_of_a_phrase_is_left_out_once() -> None:
    """One word cannot be shorter, and none cannot either."""
    assert shorter_phrases("white dotted flower") == ["dotted flower", "white flower", "white dotted"]
    assert shorter_phrases("flower") == shorter_phrases("") == []


def _missed(tower: TextTower, targets: dict[str, NDArray[np.float32]], vectors: NDArray[np.float32]) -> float:
    words = whole_words(tower.vocabulary()).tokens[:2]
    return sum(float(np.square(tower.word_states(t, vectors[None], words)[0] - s).sum()) for t, s in targets.items())


@pytest.mark.parametrize("phrase", ["white dotted flower", "spots pale flower", "chessboard crown chequered crimson"])
def test_a_word_is_fitted_until_it_says_what_the_phrase_says(clip: Clip, phrase: str) -> None:
    """Phrases far from any of their words are reached too, from a word near by as well, and at a word's length."""
    tower = TextTower(clip)
    words = whole_words(tower.vocabulary())
    own = words.embeddings[[list(words.tokens).index(w) for w in phrase.split()]][:, None]
    axes, targets = principal_axes(words.embeddings, 255), {TEMPLATE: tower.text_states(TEMPLATE.format(phrase))}
    found = distil(tower, targets, own, axes, words.tokens[:2])
    assert _missed(tower, targets, found) < 0.04 * max(_missed(tower, targets, w) for w in own)
    assert np.linalg.norm(found) < 3 * np.linalg.norm(own, axis=2).max()
    near = distil(tower, targets, np.concatenate([own, found[None]]), axes, words.tokens[:2])
    assert _missed(tower, targets, near) <= 1.001 * _missed(tower, targets, found)


@pytest.mark.parametrize("num_vectors", [1, 2])
def test_one_word_does_what_the_phrase_does(clip: Clip, num_vectors: int) -> None:
    """The distilled word misses less than half of what the best of the phrase's own words misses."""
    tower = TextTower(clip)
    words = whole_words(tower.vocabulary())
    own = words.embeddings[[list(words.tokens).index(w) for w in ("orange", "heart")]]
    starts = np.repeat(own[:, None], num_vectors, axis=1)
    targets = {TEMPLATE: tower.text_states(TEMPLATE.format("orange heart"))}
    found = distil(tower, targets, starts, principal_axes(words.embeddings, 64), words.tokens[:2])
    assert found.shape == (num_vectors, 256)
    assert _missed(tower, targets, found) < 0.5 * min(_missed(tower, targets, start) for start in starts)
