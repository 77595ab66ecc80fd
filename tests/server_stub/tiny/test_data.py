"""Training pictures."""

from __future__ import annotations

from pathlib import Path

from server_stub.tiny.train.data import load_pictures, step_rng, to_tensor
from server_stub.tiny.world import full_caption
from tests.server_stub.tiny import PICTURES


def test_pictures_are_rendered_once(work: Path) -> None:
    """The second time they are read; they are the same as fresh ones."""
    again = load_pictures(work, 0, PICTURES)
    assert again.pixels.shape == (PICTURES, 64, 64, 3)
    indices, captions = again.batch(step_rng(0, "x", 1), 8)
    assert len(indices) == len(captions) == 8
    assert to_tensor(again.pixels[:2]).abs().max() <= 1


def test_captions_can_leave_nothing_out(work: Path) -> None:
    """A share of 1 says every attribute of every picture; a share of 0 is the usual draw."""
    pictures = load_pictures(work, 0, PICTURES)
    indices, captions = pictures.batch(step_rng(0, "x", 1), 8, whole=1.0)
    assert captions == [full_caption(pictures.scenes[i]) for i in indices]
    usual = pictures.batch(step_rng(0, "x", 1), 8)
    assert pictures.batch(step_rng(0, "x", 1), 8, whole=0.0)[1] == usual[1] != captions
