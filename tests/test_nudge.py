"""Words moved towards pictures in CLIP's space."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from blackbox_ti.clip import Clip
from blackbox_ti.initialise import whole_words
from blackbox_ti.nudge import nudged
from blackbox_ti.subspace import principal_axes
from blackbox_ti.text_tower import TextTower
from server_stub.tiny import CLIP_DIR
from server_stub.tiny.world import concept_scenes, render
from tests.word_features import word_features

TEMPLATES = ["a photo of a {}", "a rendering of a {}"]


@pytest.mark.parametrize("num_vectors", [1, 2])
def test_each_nudge_likens_a_word_to_the_pictures(num_vectors: int) -> None:
    """CLIP finds the word more like the pictures the more steps it took, and each step has its length."""
    clip = Clip(CLIP_DIR)
    tower = TextTower(clip)
    words = whole_words(tower.vocabulary())
    start = np.repeat(words.embeddings[words.tokens.index("house")][None], num_vectors, axis=0)
    scenes = concept_scenes(("heart", "orange", "striped"), 3, 0)
    pictures = clip.image_features([Image.fromarray(render(s)) for s in scenes])
    axes = principal_axes(words.embeddings, 16)
    found = nudged(tower, start, TEMPLATES, pictures, axes, words.tokens[:2], (1, 3))

    def likeness(vectors: np.ndarray) -> float:
        features = [word_features(tower, clip, t, vectors[None], words.tokens[:2])[0] for t in TEMPLATES]
        return float(np.mean(np.stack(features) @ pictures.T))

    assert [v.shape for v in found] == [(num_vectors, 256)] * 2
    assert likeness(start) < likeness(found[0]) < likeness(found[1])
    moved = np.linalg.lstsq(axes.T, (found[0] - start).astype(np.float64).T, rcond=None)[0]
    assert np.linalg.norm(moved) == pytest.approx(1.0, rel=1e-3)
