"""Training pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from server_stub.tiny.train.data import load_pictures, step_rng, to_tensor

PICTURES = 96


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a few pictures."""
    folder = tmp_path_factory.mktemp("work")
    load_pictures(folder, 0, PICTURES)
    return folder


def test_pictures_are_rendered_once(work: Path) -> None:
    """The second time they are read; they are the same as fresh ones."""
    again = load_pictures(work, 0, PICTURES)
    assert again.pixels.shape == (PICTURES, 64, 64, 3)
    indices, captions = again.batch(step_rng(0, "x", 1), 8)
    assert len(indices) == len(captions) == 8
    assert to_tensor(again.pixels[:2]).abs().max() <= 1
