"""The parts that styles paint with."""

from __future__ import annotations

import numpy as np

from server_stub.tiny.world.layers import smooth_noise


def test_noise_is_smooth_and_bounded() -> None:
    """Neighbours differ little where cells are large."""
    noise = smooth_noise(np.random.default_rng(0), 4)
    assert np.abs(noise).max() <= 1
    assert np.abs(np.diff(noise, axis=0)).max() < 0.25
