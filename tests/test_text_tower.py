"""CLIP's text tower with a word's vectors in place of a word."""

from __future__ import annotations

import numpy as np
import pytest

from blackbox_ti.clip import Clip
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import InputError
from blackbox_ti.text_tower import TextTower, matching_tower
from blackbox_ti.wire import ModelCard
from server_stub.diffusers_engine import DiffusersEngine
from server_stub.in_process import InProcessEndpoint
from server_stub.tiny import CLIP_DIR
from tests.word_features import word_features

STAND_INS = ("house", "fish")


@pytest.fixture(scope="module")
def clip() -> Clip:
    """The bundled CLIP."""
    return Clip(CLIP_DIR)


@pytest.fixture(scope="module")
def host() -> InProcessEndpoint:
    """The bundled model."""
    return InProcessEndpoint(DiffusersEngine.load("tiny", micro_batch=8))


def test_a_word_of_its_own_vectors_is_the_word(clip: Clip) -> None:
    """A token's row in the word's place gives the states of the text with the token itself."""
    tower = TextTower(clip)
    words = tower.vocabulary()
    row = words.embeddings[list(words.tokens).index("heart</w>")]
    found = tower.word_states("a photo of a {}", row[None, None], STAND_INS)
    assert np.allclose(found[0], tower.text_states("a photo of a heart"), atol=1e-5)


def test_a_word_of_two_vectors_is_two_words(clip: Clip) -> None:
    """Vectors fill as many places, in order; candidates do not mix."""
    tower = TextTower(clip)
    words = tower.vocabulary()
    rows = words.embeddings[[list(words.tokens).index(w + "</w>") for w in ("red", "heart")]]
    found = tower.word_states("a photo of a {}", np.stack([rows[::-1], rows]), STAND_INS)
    assert np.allclose(found[1], tower.text_states("a photo of a red heart"), atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=1e-2)


def test_a_word_is_fitted_to_the_states_of_a_text(clip: Clip) -> None:
    """States that one word has are found again from another word; the gradients leave no trace on the CLIP."""
    tower = TextTower(clip)
    words = tower.vocabulary()
    house = words.embeddings[list(words.tokens).index("house</w>")]
    targets = {t: tower.text_states(t.format("heart")) for t in ("a photo of a {}", "a rendering of a {}")}
    found = tower.fitted(targets, house[None], np.eye(256, dtype=np.float32) / 50, STAND_INS)
    left = np.square(tower.word_states("a photo of a {}", found[None], STAND_INS)[0] - targets["a photo of a {}"]).sum()
    began = np.square(
        tower.word_states("a photo of a {}", house[None, None], STAND_INS)[0] - targets["a photo of a {}"]
    )
    assert left < 0.01 * began.sum()
    assert all(weight.grad is None for weight in clip.model.parameters())


def test_the_slope_of_a_likeness_is_what_a_small_step_finds(clip: Clip) -> None:
    """Along any direction the gradient foretells how CLIP's cosine changes."""
    tower, templates = TextTower(clip), ("a photo of a {}", "a rendering of a {}")
    words = tower.vocabulary()
    word = words.embeddings[[list(words.tokens).index(w + "</w>") for w in ("red", "heart")]]
    wanted = clip.text_features(["an orange star"])[0]
    told = word_features(tower, clip, templates[0], word[None], STAND_INS)
    assert np.allclose(told, clip.text_features(["a photo of a red heart"]), atol=1e-5)
    slope = tower.likeness_slope(templates, word, wanted, STAND_INS)
    step = 1e-2 * np.random.default_rng(0).standard_normal((4, *word.shape)) / 16

    def likeness(vectors: np.ndarray) -> np.ndarray:
        features = [word_features(tower, clip, t, vectors, STAND_INS) for t in templates]
        return np.asarray(np.sum([f @ wanted for f in features], axis=0))

    change = likeness(word + step) - likeness(word - step)
    assert np.allclose(change, 2 * (step * slope).sum(axis=(1, 2)), rtol=0.02, atol=1e-5)


def test_templates_of_unlike_lengths_are_fitted_together(clip: Clip) -> None:
    """A word is found that says in each template what it is to say there, as long as the template may be."""
    tower = TextTower(clip)
    words = tower.vocabulary()
    house, heart = (words.embeddings[list(words.tokens).index(w + "</w>")][None] for w in ("house", "heart"))
    templates = ("a {}", "a good photo of a {} on the grass")
    targets = {t: tower.word_states(t, heart[None], STAND_INS)[0] for t in templates}
    found = tower.fitted(targets, house, np.eye(256, dtype=np.float32) / 50, STAND_INS)
    for template, states in targets.items():
        left, began = (
            np.square(tower.word_states(template, word[None], STAND_INS)[0] - states).sum() for word in (found, house)
        )
        assert left < 0.05 * began


def test_stand_ins_of_several_tokens_are_named(clip: Clip) -> None:
    """Two words that show where the word is have to be one token each."""
    with pytest.raises(InputError, match="single tokens"):
        TextTower(clip).word_states("a {}", np.zeros((1, 1, 256), np.float32), ("xqzv", "fish"))


def test_the_tower_is_the_hosts_where_the_tables_are_equal(clip: Clip, host: InProcessEndpoint) -> None:
    """By the vocabulary where the host shows it, else by the norms on its card."""
    card = host.describe()
    table = {"text_encoder": host.vocabulary("text_encoder")}
    assert matching_tower(clip, card, table) is not None
    assert matching_tower(clip, card, {}) is not None
    moved = Vocabulary(table["text_encoder"].tokens, table["text_encoder"].embeddings * 1.01)
    assert matching_tower(clip, card, {"text_encoder": moved}) is None


def test_another_encoders_tower_is_refused(clip: Clip, host: InProcessEndpoint) -> None:
    """Other norms, another width, or two encoders on the card; or no CLIP at all."""
    card = host.describe()
    (encoder,) = card.encoders

    def other(**change: float) -> ModelCard:
        return card.model_copy(update={"encoders": [encoder.model_copy(update=change)]})

    assert matching_tower(clip, other(norm_mean=encoder.norm_mean * 1.05), {}) is None
    assert matching_tower(clip, other(dim=768), {}) is None
    assert matching_tower(clip, card.model_copy(update={"encoders": [encoder, encoder]}), {}) is None
    assert matching_tower(None, card, {}) is None
