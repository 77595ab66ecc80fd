"""Training pictures."""

from __future__ import annotations

from pathlib import Path

from server_stub.tiny.train.data import load_pictures, step_rng, to_tensor
from tests.server_stub.tiny import PICTURES


def test_pictures_are_rendered_once(work: Path) -> None:
    """The second time they are read; they are the same as fresh ones."""
    again = load_pictures(work, 0, PICTURES)
    assert again.pixels.shape == (PICTURES, 64, 64, 3)
    indices, captions = again.batch(step_rng(0, "x", 1), 8)
    assert len(indices) == len(captions) == 8
    assert to_tensor(again.pixels[:2]).abs().max() <= 1
