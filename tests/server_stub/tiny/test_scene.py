"""Scenes and what is held out."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from server_stub.tiny.world import (
    caption,
    concept_scenes,
    full_caption,
    held_out_combinations,
    random_scene,
    render,
    subject_scenes,
    vocabulary,
)
from server_stub.tiny.world import words as word_tables
from server_stub.tiny.world.palette import contrast
from server_stub.tiny.world.shapes import unnamed_outline


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_captions_use_the_vocabulary_and_scenes_keep_the_rules(seed: int) -> None:
    """Every word of a caption is known; objects stand out, lie inside, and are no held-out combination."""
    rng = np.random.default_rng(seed)
    scene = random_scene(rng)
    known = set(vocabulary())
    assert set(caption(scene, rng).split()) <= known
    assert set(full_caption(scene).split()) <= known
    assert (scene.shape, scene.colour, scene.pattern) not in held_out_combinations()
    assert contrast(scene.colour, scene.background)
    assert scene.radius < scene.x < 64 - scene.radius
    assert scene.radius < scene.y < 64 - scene.radius


def test_a_tenth_of_the_combinations_is_held_out() -> None:
    """The share is a tenth, and every shape, colour and pattern is still trained."""
    every = len(word_tables.SHAPES) * len(word_tables.COLOURS) * len(word_tables.PATTERNS)
    held = held_out_combinations()
    assert len(held) == round(0.1 * every)
    assert max(Counter(s for s, _, _ in held).values()) < 48


def test_concepts_are_one_object_in_many_scenes() -> None:
    """Photos of one combination, alike in nothing else."""
    scenes = concept_scenes(("heart", "orange", "striped"), 5, 0)
    assert {(s.shape, s.colour, s.pattern, s.style) for s in scenes} == {("heart", "orange", "striped", "photo")}
    assert len({s.background for s in scenes}) > 1


def test_subjects_that_no_word_names_keep_their_outline() -> None:
    """A subject is the same outline each time, and no other subject's."""
    scenes = subject_scenes(4, 3, 0)
    assert {s.shape for s in scenes} == {4}
    assert np.array_equal(unnamed_outline(4)[0], unnamed_outline(4)[0])
    assert not np.allclose(unnamed_outline(4)[0], unnamed_outline(5)[0])
    assert render(scenes[0]).std() > 5
