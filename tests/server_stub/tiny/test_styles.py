"""Pictures in every style."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from server_stub.tiny.world import (
    random_scene,
    render,
)
from server_stub.tiny.world import words as word_tables
from server_stub.tiny.world.layers import layers_of


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


def test_styles_that_no_word_names_have_two_inks_of_their_own() -> None:
    """Two scenes of one unnamed style share its inks; another style has others."""
    scene = random_scene(np.random.default_rng(2))
    inks = [render(replace(scene, style=style)).reshape(-1, 3).mean(axis=0) for style in (7, 8)]
    assert np.abs(inks[0] - inks[1]).max() > 5
