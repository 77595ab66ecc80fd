"""Captions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from server_stub.tiny.world import (
    caption,
    random_scene,
)
from server_stub.tiny.world import words as word_tables


def test_captions_leave_attributes_out_at_random() -> None:
    """A colour is named in most captions and not in all."""
    rng = np.random.default_rng(0)
    scene = random_scene(rng, combination=("star", "red", "striped"))
    scene = replace(scene, background="snow")
    named = [bool(set(word_tables.COLOURS["red"]) & set(caption(scene, rng).split())) for _ in range(200)]
    assert 0.6 < np.mean(named) < 0.95
