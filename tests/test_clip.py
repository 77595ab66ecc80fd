"""CLIP on the user's machine, with the bundled one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blackbox_ti.clip import Clip, clip_similarity
from blackbox_ti.errors import InputError
from server_stub.tiny import CLIP_DIR
from server_stub.tiny.world import concept_scenes, render


def _photos(shape: str, colour: str) -> list[Image.Image]:
    return [Image.fromarray(render(s)) for s in concept_scenes((shape, colour, "solid"), 3, 0)]


@pytest.fixture(scope="module")
def clip() -> Clip:
    """The bundled CLIP."""
    return Clip(CLIP_DIR)


def test_features_are_unit_vectors(clip: Clip) -> None:
    """Of pictures and of texts, in one space, however many there are."""
    pictures, texts = clip.image_features(_photos("star", "red")), clip.text_features(["a star"] * 70)
    assert pictures.shape[1] == texts.shape[1]
    assert texts.shape[0] == 70
    assert np.allclose(np.linalg.norm(pictures, axis=1), 1, atol=1e-5)
    assert pictures.dtype == np.float32


def test_likeness_is_greater_within_a_concept(clip: Clip) -> None:
    """Red stars are more like red stars than like green hearts."""
    stars, hearts = _photos("star", "red"), _photos("heart", "green")
    assert clip_similarity(clip, stars[:1], stars[1:]) > clip_similarity(clip, stars[:1], hearts)


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    """An empty folder, or an architecture nobody knows."""
    for name in (tmp_path, "no-such-architecture:none"):
        with pytest.raises(InputError, match="cannot load the CLIP"):
            Clip(name)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The light client has no open_clip, and says which extra brings it."""
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(InputError, match=r"blackbox-ti\[clip\]"):
        Clip(CLIP_DIR)
