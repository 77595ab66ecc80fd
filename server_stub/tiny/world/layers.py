"""The parts of a picture that every style paints with: distances, the pattern's two tones, the backdrop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server_stub.tiny.world.palette import PLACE_BASE, RGB, secondary
from server_stub.tiny.world.scene import Scene
from server_stub.tiny.world.shapes import GRID_HALF_WIDTH, GRID_SIZE, signed_distance_grid

__all__ = ["Layers", "layers_of", "smooth_noise"]

Array = NDArray[np.float32]

SIZE = 64
_STRIPE_PERIOD, _CHECK_CELL, _DOT_SPACING, _DOT_RADIUS = 12.0, 8.0, 11.0, 2.6


@dataclass(frozen=True, slots=True)
class Layers:
    """Fields over the pixel grid: `distance` (H, W) in pixels, `fill` and `backdrop` (H, W, 3), RGB 0 to 1."""

    distance: Array
    fill: Array
    backdrop: Array
    base: Array
    rng: np.random.Generator

    def alpha(self, grow: float = 0.0) -> Array:
        """Coverage of the object grown by `grow` pixels, (H, W, 1)."""
        return np.asarray(np.clip(0.5 + grow - self.distance, 0, 1)[..., None], np.float32)


def smooth_noise(rng: np.random.Generator, cells: int, size: int = SIZE) -> Array:
    """Return value noise (size, size) float32 in -1..1 with `cells` cells a side, bilinear."""
    lattice = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    at = np.linspace(0, cells, size, endpoint=False, dtype=np.float32)
    i = at.astype(int)
    f = at - i
    f = f * f * (3 - 2 * f)
    rows = lattice[i] * (1 - f)[:, None] + lattice[i + 1] * f[:, None]
    return np.asarray(rows[:, i] * (1 - f) + rows[:, i + 1] * f, dtype=np.float32)


def _local(scene: Scene, size: int) -> tuple[Array, Array]:
    """Pixel offsets from the object's centre, turned with it, in pixels of 64."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (SIZE / size)
    x, y = np.meshgrid(axis - scene.x, axis - scene.y)
    c, s = np.cos(np.radians(scene.angle)), np.sin(np.radians(scene.angle))
    return np.asarray(c * x + s * y, np.float32), np.asarray(-s * x + c * y, np.float32)


def _sampled_distance(scene: Scene, u: Array, v: Array) -> Array:
    grid = signed_distance_grid(scene.shape)
    scale = (GRID_SIZE - 1) / (2 * GRID_HALF_WIDTH)
    limit = GRID_SIZE - 1.001
    gx = np.clip((u / scene.radius + GRID_HALF_WIDTH) * scale, 0, limit)
    gy = np.clip((v / scene.radius + GRID_HALF_WIDTH) * scale, 0, limit)
    ix, iy = gx.astype(int), gy.astype(int)
    fx, fy = gx - ix, gy - iy
    top = grid[iy, ix] * (1 - fx) + grid[iy, ix + 1] * fx
    bottom = grid[iy + 1, ix] * (1 - fx) + grid[iy + 1, ix + 1] * fx
    return np.asarray((top * (1 - fy) + bottom * fy) * scene.radius, np.float32)


def _pattern_mask(pattern: str, u: Array, v: Array, rng: np.random.Generator) -> Array:
    """Share of the second tone at each pixel, edges softened over a pixel."""
    phase = rng.uniform(0, 1, 2)
    if pattern == "striped":
        across = (u + v) / np.sqrt(2) if rng.random() < 0.5 else v
        t = np.abs(((across / _STRIPE_PERIOD + phase[0]) % 1.0) - 0.5) * _STRIPE_PERIOD
        return np.asarray(np.clip(t - _STRIPE_PERIOD / 4 + 0.5, 0, 1), np.float32)
    if pattern == "checkered":
        waves = [np.abs(((a / (2 * _CHECK_CELL) + p) % 1.0) - 0.5) * 2 * _CHECK_CELL - _CHECK_CELL / 2
                 for a, p in zip((u, v), phase, strict=True)]  # fmt: skip
        a, b = (np.clip(w + 0.5, 0, 1) for w in waves)
        return np.asarray(a * (1 - b) + b * (1 - a), np.float32)
    if pattern == "dotted":
        row = np.floor(v / _DOT_SPACING + phase[1])
        du = ((u / _DOT_SPACING + phase[0] + 0.5 * (row % 2)) % 1.0 - 0.5) * _DOT_SPACING
        dv = ((v / _DOT_SPACING + phase[1]) % 1.0 - 0.5) * _DOT_SPACING
        return np.asarray(np.clip(_DOT_RADIUS - np.hypot(du, dv) + 0.5, 0, 1), np.float32)
    return np.zeros_like(u)


def _fill(scene: Scene, u: Array, v: Array, base: Array, rng: np.random.Generator) -> Array:
    second = secondary(base)
    if isinstance(scene.shape, int):  # a subject's second tone is its own, not the palette's rule
        second = np.random.default_rng([scene.shape, 13]).uniform(0.05, 0.95, 3).astype(np.float32)
    mask = _pattern_mask(scene.pattern, u, v, rng)[..., None]
    return np.asarray(base * (1 - mask) + second * mask, np.float32)


def _bricks(base: Array, size: int) -> Array:
    y, x = np.mgrid[0:size, 0:size] * (SIZE / size)
    row = np.floor(y / 8)
    seam = (y % 8 < 1.2) | ((x + 8 * (row % 2)) % 16 < 1.2)
    return np.where(seam[..., None], np.float32(0.80), base).astype(np.float32)


def _place(name: str, rng: np.random.Generator, size: int) -> Array:
    base = PLACE_BASE[name]
    if name == "bricks":
        return _bricks(base, size)
    cells, strength = {"grass": (20, 0.14), "beach": (26, 0.05), "snow": (12, 0.04), "night": (4, 0.02)}.get(
        name, (7, 0.10)
    )
    field = base * (1 + strength * smooth_noise(rng, cells, size)[..., None])
    if name == "sea":
        rows = np.sin(np.arange(size) * (SIZE / size) * 2 * np.pi / 9)[:, None, None]
        field = field * (1 + 0.10 * rows)
    if name == "night":
        stars = rng.random((size, size)) < 0.016
        field = np.where(stars[..., None], np.float32(0.92), field)
    if name in ("grass", "beach", "snow"):
        sky = np.array([0.62, 0.80, 0.96], np.float32)
        horizon = np.clip((size * 0.24 - np.arange(size)) / 1.5 + 0.5, 0, 1)[:, None, None].astype(np.float32)
        field = field * (1 - horizon) + sky * horizon
    return np.asarray(np.clip(field, 0, 1), np.float32)


def layers_of(scene: Scene, size: int = SIZE) -> Layers:
    """Return the layers of `scene` on a grid of `size` by `size` pixels."""
    rng = np.random.default_rng([scene.seed, 3])
    jitter = rng.normal(0, 0.018, 3).astype(np.float32)
    base = np.clip(RGB[scene.colour] + jitter, 0, 1)
    u, v = _local(scene, size)
    distance = _sampled_distance(scene, u, v) * np.float32(size / SIZE)
    fill = _fill(scene, u, v, base, rng)
    if scene.background in PLACE_BASE:
        backdrop = _place(scene.background, rng, size)
    else:
        tone = np.clip(RGB[scene.background] + rng.normal(0, 0.015, 3).astype(np.float32), 0, 1)
        backdrop = np.broadcast_to(tone, (size, size, 3)).astype(np.float32)
    return Layers(distance, fill, backdrop, base, rng)
