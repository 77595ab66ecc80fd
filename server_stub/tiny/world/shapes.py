"""Outlines as polygons, and their signed distances on a grid.

Coordinates are normalised: the outline fits the unit circle, x to the right, y down.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["GRID_HALF_WIDTH", "GRID_SIZE", "outline", "signed_distance_grid", "unnamed_outline"]

Array = NDArray[np.float64]
Outline = tuple[Array, ...]

GRID_HALF_WIDTH = 1.75
GRID_SIZE = 176


def _arc(cx: float, cy: float, r: float, start: float, stop: float, n: int = 40) -> Array:
    """Points of an arc; angles in degrees, clockwise on screen."""
    t = np.radians(np.linspace(start, stop, n))
    return np.stack([cx + r * np.cos(t), cy + r * np.sin(t)], axis=1)


def _radial(radii: Array, start_degrees: float = -90.0) -> Array:
    t = np.radians(start_degrees) + np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([radii * np.cos(t), radii * np.sin(t)], axis=1)


def _points(text: str) -> Array:
    return np.array([[float(v) for v in p.split(",")] for p in text.split()])


def _heart() -> Array:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 1.5], axis=1) / 17.0


def _moon() -> Array:
    outer = _arc(0.0, 0.0, 1.0, 50, 310, 48)
    tip = outer[-1]
    centre = np.array([0.52, 0.0])
    radius = float(np.hypot(*(tip - centre)))
    start = float(np.degrees(np.arctan2(tip[1], tip[0] - centre[0])))
    inner = _arc(centre[0], 0.0, radius, start, -start - 360, 40)
    return np.asarray(np.concatenate([outer, inner[1:-1]]) + np.array([0.22, 0.0]))


def _flower() -> Array:
    t = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    return _radial(0.72 + 0.28 * np.cos(6 * t))


def _mushroom() -> Array:
    cap = _arc(0.0, -0.02, 0.95, 180, 360, 36)
    stem = _points("0.95,0.14 0.34,0.14 0.40,0.80 0.30,0.92 -0.30,0.92 -0.40,0.80 -0.34,0.14 -0.95,0.14")
    return np.concatenate([cap, stem])


def _fish() -> Array:
    t = np.radians(np.linspace(28, 332, 44))
    body = np.stack([-0.22 + 0.72 * np.cos(t), 0.60 * np.sin(t)], axis=1)
    tail = _points("0.98,-0.62 0.80,0.0 0.98,0.62")
    return np.concatenate([body, tail])


_POLYGONS: dict[str, str] = {
    "square": "-0.80,-0.80 0.80,-0.80 0.80,0.80 -0.80,0.80",
    "triangle": "0,-0.95 0.98,0.78 -0.98,0.78",
    "cross": "-0.34,-0.95 0.34,-0.95 0.34,-0.34 0.95,-0.34 0.95,0.34 0.34,0.34 0.34,0.95 -0.34,0.95 "
    "-0.34,0.34 -0.95,0.34 -0.95,-0.34 -0.34,-0.34",
    "arrow": "1.0,0 0.15,-0.85 0.15,-0.36 -0.95,-0.36 -0.95,0.36 0.15,0.36 0.15,0.85",
    "house": "0,-0.98 0.98,-0.18 0.70,-0.18 0.70,0.88 0.22,0.88 0.22,0.34 -0.22,0.34 -0.22,0.88 -0.70,0.88 "
    "-0.70,-0.18 -0.98,-0.18",
    "tree": "0,-1.0 0.50,-0.42 0.28,-0.42 0.72,0.10 0.42,0.10 0.92,0.66 0.20,0.66 0.20,1.0 -0.20,1.0 -0.20,0.66 "
    "-0.92,0.66 -0.42,0.10 -0.72,0.10 -0.28,-0.42 -0.50,-0.42",
    "lightning": "0.30,-1.0 -0.68,0.14 -0.10,0.14 -0.42,1.0 0.70,-0.28 0.12,-0.28 0.52,-1.0",
    "crown": "-0.95,-0.66 -0.48,-0.02 0,-0.88 0.48,-0.02 0.95,-0.66 0.80,0.74 -0.80,0.74",
}


@lru_cache(maxsize=64)
def outline(shape: str) -> Outline:
    """Return the polygons of a named shape, combined by even-odd; each is (n, 2) float64.

    Raises:
        KeyError: no shape has that name.
    """
    curves: dict[str, Callable[[], Outline]] = {
        "circle": lambda: (_arc(0, 0, 0.92, 0, 355, 72),),
        "ring": lambda: (_arc(0, 0, 0.97, 0, 355, 72), _arc(0, 0, 0.46, 0, 355, 48)),
        "star": lambda: (_radial(np.tile([1.0, 0.44], 5)),),
        "heart": lambda: (_heart(),),
        "moon": lambda: (_moon(),),
        "flower": lambda: (_flower(),),
        "mushroom": lambda: (_mushroom(),),
        "fish": lambda: (_fish(),),
    }
    return curves[shape]() if shape in curves else (_points(_POLYGONS[shape]),)


@lru_cache(maxsize=256)
def unnamed_outline(seed: int) -> Outline:
    """Return the outline of a subject that no word names: lobes and notches drawn from `seed`."""
    rng = np.random.default_rng([seed, 101])
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    r = np.full_like(t, 0.66)
    for k in rng.choice(np.arange(2, 8), size=3, replace=False):
        r += rng.uniform(0.08, 0.20) * np.cos(k * t + rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.5:  # squared lobes, which no named shape has
        r = 0.42 + np.round((r - 0.42) / 0.16) * 0.16
    polygon = _radial(np.clip(r, 0.30, 1.0))
    return (polygon / np.abs(polygon).max(),)


def _distance(points: Array, polygon: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Distance to the polygon's edge and whether inside, for points (m, 2)."""
    best = np.full(len(points), np.inf)
    inside = np.zeros(len(points), dtype=bool)
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        edge, to = b - a, points - a
        h = np.clip(to @ edge / max(float(edge @ edge), 1e-12), 0.0, 1.0)
        best = np.minimum(best, ((to - h[:, None] * edge) ** 2).sum(axis=1))
        crosses = (a[1] > points[:, 1]) != (b[1] > points[:, 1])
        slope = edge[0] / edge[1] if edge[1] else 0.0
        inside ^= crosses & (points[:, 0] < a[0] + (points[:, 1] - a[1]) * slope)
    return np.sqrt(best), inside


@lru_cache(maxsize=256)
def signed_distance_grid(shape: str | int) -> NDArray[np.float32]:
    """Return signed distances (GRID_SIZE, GRID_SIZE) float32, negative inside, of a named shape or an unnamed seed."""
    polygons = outline(shape) if isinstance(shape, str) else unnamed_outline(shape)
    axis = np.linspace(-GRID_HALF_WIDTH, GRID_HALF_WIDTH, GRID_SIZE)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    distances, insides = zip(*(_distance(points, p) for p in polygons), strict=True)
    distance = np.minimum.reduce(distances)
    inside = np.logical_xor.reduce(insides)
    return np.asarray(np.where(inside, -distance, distance).reshape(GRID_SIZE, GRID_SIZE), np.float32)
