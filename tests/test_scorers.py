"""Pictures to numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from blackbox_ti.clip import Clip, clip_similarity
from blackbox_ti.errors import InputError, ScorerError
from blackbox_ti.scorers import CallableScorer, ClipScorer, Scorer, checked_scores, load_scorer, without_placeholder
from server_stub.tiny import CLIP_DIR
from server_stub.tiny.world import concept_scenes, render


def mean_red(pictures: list[Image.Image]) -> list[float]:
    """A scorer by name."""
    return [float(np.asarray(p, dtype=float)[..., 0].mean()) for p in pictures]


class Constant:
    """A scorer that is an object."""

    name = "constant"

    def scores(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """The number of prompts, each time."""
        return [float(len(prompts))] * len(pictures)


constant = Constant()
number = 3
RED, BLUE = Image.new("RGB", (4, 4), (200, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 200))


def test_a_function_is_loaded_by_its_name() -> None:
    """Pictures in, one number each out, larger is better."""
    scorer = load_scorer("tests.test_scorers:mean_red")
    assert scorer.name == "tests.test_scorers:mean_red"
    assert list(checked_scores(scorer, [RED, BLUE], ["a", "b"])) == [200.0, 0.0]


def test_an_object_that_is_a_scorer_is_taken_as_it_is() -> None:
    """It is told the prompts as well."""
    scorer = load_scorer("tests.test_scorers:constant")
    assert isinstance(scorer, Scorer)
    assert scorer.name == "constant"
    assert list(checked_scores(scorer, [RED, BLUE], ["a", "b"])) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mean_red", "looks like package.module:function"),
        (":mean_red", "looks like"),
        ("no.such.module:f", "PYTHONPATH"),
        ("tests.test_scorers:absent", "has no 'absent'"),
        ("tests.test_scorers:mean_red.absent", "has no"),
        ("tests.test_scorers:number", "not a function"),
        ("tests.test_scorers:Constant", "not a function"),
        ("..x:f", "cannot import"),
    ],
)
def test_what_cannot_be_a_scorer_is_named(name: str, words: str) -> None:
    """Not there, not importable, not callable."""
    with pytest.raises(ScorerError, match=words):
        load_scorer(name)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([1.0], "1 numbers for 2 pictures"),
        ([1.0, 2.0, 3.0], "3 numbers for 2"),
        ([1.0, math.nan], "NaN"),
        ([math.inf, 1.0], "infinity"),
        ([1.0, "good"], "failed: ValueError"),
        ([1.0, None], "failed: TypeError"),
        (None, "failed: TypeError"),
        (1.0, "failed: TypeError"),
        (np.zeros((2, 2)), "failed"),
    ],
)
def test_anything_but_one_finite_number_a_picture_is_an_error(answer: Any, words: str) -> None:
    """The scorer is named, and what was wrong with its answer."""
    with pytest.raises(ScorerError, match=words) as caught:
        checked_scores(CallableScorer(lambda _: answer, "mine"), [RED, BLUE], ["a", "b"])
    assert "mine" in str(caught.value)


def test_a_scorer_that_raises_is_an_error_of_ours() -> None:
    """Its own words are kept."""

    def broken(_: list[Image.Image]) -> list[float]:
        raise ZeroDivisionError("no pictures today")

    with pytest.raises(ScorerError, match="no pictures today"):
        checked_scores(CallableScorer(broken), [RED], ["a"])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_finite_numbers_pass_unchanged(numbers: list[float]) -> None:
    """Whatever kind of sequence they come in."""
    pictures = [RED] * len(numbers)
    answers: list[Any] = [list(numbers), tuple(numbers), np.array(numbers)]
    scorer = CallableScorer(lambda _: answers[-1], "mine")
    while answers:
        assert list(checked_scores(scorer, pictures, [""])) == numbers
        answers.pop()


@pytest.mark.parametrize(
    ("prompt", "word", "plain"),
    [
        ("a photo of a <sks>", "dog", "a photo of a dog"),
        ("a photo of a <sks>", None, "a photo of a"),
        ("<sks> on the  beach", None, "on the beach"),
        ("a <sks> and a <sks>", "cat", "a cat and a cat"),
    ],
)
def test_the_placeholder_is_replaced_or_dropped(prompt: str, word: str | None, plain: str) -> None:
    """CLIP never sees a word it cannot know."""
    assert without_placeholder(prompt, "<sks>", word) == plain


def _photos(shape: str, colour: str) -> list[Image.Image]:
    return [Image.fromarray(render(s)) for s in concept_scenes((shape, colour, "solid"), 3, 0)]


@pytest.fixture(scope="module")
def clip() -> Clip:
    """The bundled CLIP."""
    return Clip(CLIP_DIR)


def test_clip_prefers_what_looks_like_the_references(clip: Clip) -> None:
    """The picture's term alone is CLIP-I."""
    stars, hearts = _photos("star", "red"), _photos("heart", "green")
    scorer = ClipScorer(clip, stars[1:])
    scores = checked_scores(scorer, [stars[0], hearts[0]], ["a <sks>"] * 2)
    assert scores[0] > scores[1]
    assert scores[0] == pytest.approx(clip_similarity(clip, stars[:1], stars[1:]), abs=1e-6)


def test_the_text_weight_asks_for_what_the_prompt_says(clip: Clip) -> None:
    """With the class word in the placeholder's place, a picture of that class wins."""
    stars, hearts = _photos("star", "red"), _photos("heart", "red")
    pictures, prompts = [stars[0], hearts[0]], ["a photo of a <sks>"] * 2
    for word, best in (("star", 0), ("heart", 1)):
        scorer = ClipScorer(clip, stars, image_weight=0.0, text_weight=1.0, class_word=word)
        assert int(np.argmax(checked_scores(scorer, pictures, prompts))) == best


def test_weights_add_the_terms_up(clip: Clip) -> None:
    """Two of one and a half of the other; the name says so."""
    stars = _photos("star", "red")
    prompts = ["a <sks>"] * 3
    image, text = (ClipScorer(clip, stars[:1], image_weight=i, text_weight=t) for i, t in ((1, 0), (0, 1)))
    both = ClipScorer(clip, stars[:1], image_weight=2.0, text_weight=0.5)
    expected = 2 * image.scores(stars, prompts) + 0.5 * text.scores(stars, prompts)
    assert np.allclose(both.scores(stars, prompts), expected)
    assert both.name == "clip (image 2, text 0.5)"


def test_weights_of_nothing_are_refused(clip: Clip) -> None:
    """A score that is always 0, or that has nothing to be like, is no score."""
    with pytest.raises(InputError, match="--image-weight"):
        ClipScorer(clip, [RED], image_weight=0.0)
    with pytest.raises(InputError, match="reference"):
        ClipScorer(clip, [])
