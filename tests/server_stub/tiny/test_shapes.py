"""Outlines and distances."""

from __future__ import annotations

import numpy as np
import pytest

from server_stub.tiny.world import words as word_tables
from server_stub.tiny.world.shapes import GRID_HALF_WIDTH, GRID_SIZE, outline, signed_distance_grid


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
