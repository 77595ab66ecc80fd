"""The world: its words, scenes, pictures and captions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
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
from server_stub.tiny.world.layers import layers_of, smooth_noise
from server_stub.tiny.world.palette import RGB, contrast, secondary
from server_stub.tiny.world.shapes import GRID_HALF_WIDTH, GRID_SIZE, outline, signed_distance_grid, unnamed_outline


def test_the_vocabulary_is_rich() -> None:
    """At least 300 words, each once, lower case letters alone."""
    words = vocabulary()
    assert len(words) >= 300
    assert len(set(words)) == len(words)
    assert all(w.isalpha() and w == w.lower() for w in words)


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


def test_captions_leave_attributes_out_at_random() -> None:
    """A colour is named in most captions and not in all."""
    rng = np.random.default_rng(0)
    scene = random_scene(rng, combination=("star", "red", "striped"))
    scene = replace(scene, background="snow")
    named = [bool(set(word_tables.COLOURS["red"]) & set(caption(scene, rng).split())) for _ in range(200)]
    assert 0.6 < np.mean(named) < 0.95


@pytest.mark.parametrize("style", list(word_tables.STYLE_PREFIXES))
@pytest.mark.parametrize("shape", list(word_tables.SHAPES))
def test_every_shape_renders_in_every_style(shape: str, style: str) -> None:
    """A picture is 64x64 RGB, and its object differs from its ground."""
    scene = random_scene(np.random.default_rng(3), combination=(shape, "red", "dotted"), style=style)
    picture = render(scene)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    inside = layers_of(scene).distance < -2
    ground = layers_of(scene).distance > 6
    assert np.abs(picture[inside].mean(axis=0) - picture[ground].mean(axis=0)).max() > 15


def test_a_scene_is_its_picture() -> None:
    """The same scene renders to the same bits; another seed to others."""
    scene = random_scene(np.random.default_rng(1))
    assert np.array_equal(render(scene), render(scene))
    assert not np.array_equal(render(scene), render(replace(scene, seed=scene.seed + 1)))


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


def test_styles_that_no_word_names_have_two_inks_of_their_own() -> None:
    """Two scenes of one unnamed style share its inks; another style has others."""
    scene = random_scene(np.random.default_rng(2))
    inks = [render(replace(scene, style=style)).reshape(-1, 3).mean(axis=0) for style in (7, 8)]
    assert np.abs(inks[0] - inks[1]).max() > 5


@pytest.mark.parametrize("shape", list(word_tables.SHAPES))
def test_distances_are_true(shape: str) -> None:
    """Points of the outline lie at distance zero to within a cell; inside is negative, the corners far outside."""
    grid = signed_distance_grid(shape)
    cell = 2 * GRID_HALF_WIDTH / (GRID_SIZE - 1)
    points = np.concatenate(outline(shape))
    assert np.abs(points).max() <= 1.05
    index = np.round((points + GRID_HALF_WIDTH) / cell).astype(int)
    assert np.abs(grid[index[:, 1], index[:, 0]]).max() < 1.5 * cell
    assert grid.min() < -0.15
    assert grid[0, 0] > 0.5


def test_the_second_tone_is_far_from_the_first() -> None:
    """Patterns show on every colour."""
    assert all(np.linalg.norm(secondary(rgb) - rgb) > 0.3 for rgb in RGB.values())


def test_noise_is_smooth_and_bounded() -> None:
    """Neighbours differ little where cells are large."""
    noise = smooth_noise(np.random.default_rng(0), 4)
    assert np.abs(noise).max() <= 1
    assert np.abs(np.diff(noise, axis=0)).max() < 0.25
