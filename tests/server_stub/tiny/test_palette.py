"""Colours."""

from __future__ import annotations

import numpy as np

from server_stub.tiny.world.palette import RGB, secondary


def test_the_second_tone_is_far_from_the_first() -> None:
    """Patterns show on every colour."""
    assert all(np.linalg.norm(secondary(rgb) - rgb) > 0.3 for rgb in RGB.values())
