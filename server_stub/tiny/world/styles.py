"""The styles: each paints a scene's layers into a picture (H, W, 3) float32, RGB 0 to 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server_stub.tiny.world.layers import SIZE, Layers, layers_of, smooth_noise
from server_stub.tiny.world.scene import Scene

__all__ = ["render", "render_float"]

Array = NDArray[np.float32]
Field = NDArray[np.floating[Any]]

_PIXEL = 4
_LIGHT = np.array([-0.55, -0.65], np.float32)


def _mix(a: Field, b: Field | np.float32, share: Field | float) -> Array:
    return np.asarray(a * (1 - share) + b * share, np.float32)


def _shading(layers: Layers, depth: float = 6.0) -> Array:
    """Light on a rounded edge, about 1, from the gradient of the distance."""
    gy, gx = np.gradient(layers.distance)
    edge = np.clip(1 + layers.distance / depth, 0, 1)
    return np.asarray(1 + 0.26 * edge * (gx * _LIGHT[0] + gy * _LIGHT[1]), np.float32)


def _material(scene: Scene, layers: Layers, fill: Array) -> Array:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    if scene.material == "metal":
        bands = 0.5 + 0.5 * np.sin((x + y) * 2 * np.pi / 26 + scene.seed % 7)
        shone = fill * (0.72 + 0.42 * bands[..., None]) + 0.16 * bands[..., None] ** 4
        return np.asarray(np.clip(shone, 0, 1), np.float32)
    if scene.material == "wooden":
        wobble = 2.4 * smooth_noise(layers.rng, 5)
        grain = 0.5 + 0.5 * np.sin((y + wobble * 2) * 2 * np.pi / 5.0)
        return np.asarray(fill * (0.80 + 0.20 * grain[..., None]), np.float32)
    if scene.material == "glass":
        return _mix(_mix(fill, layers.backdrop, 0.30), np.float32(1), 0.34 * _highlight(scene, 0.34, 0.30))
    if scene.material == "stone":
        return np.asarray(np.clip(fill * (1 + 0.20 * smooth_noise(layers.rng, 20)[..., None]), 0, 1), np.float32)
    return _mix(fill, np.float32(1), 0.85 * _highlight(scene, 0.30, 0.16))


def _highlight(scene: Scene, at: float, width: float) -> Array:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    cx, cy = scene.x - at * scene.radius, scene.y - at * scene.radius
    return np.asarray(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (width * scene.radius) ** 2)[..., None], np.float32)


def _photo(scene: Scene, layers: Layers) -> Array:
    y = np.linspace(1, -1, SIZE, dtype=np.float32)[:, None, None]
    ground = layers.backdrop * (1 + 0.07 * y)
    shadow = np.clip(0.5 - np.roll(layers.distance, (3, 2), (0, 1)) / 4, 0, 1)[..., None]
    ground = ground * (1 - 0.30 * shadow)
    fill = _material(scene, layers, layers.fill) if scene.material else layers.fill
    picture = _mix(ground, fill * _shading(layers)[..., None], layers.alpha())
    return picture + layers.rng.normal(0, 0.008, picture.shape).astype(np.float32)


def _sketch(_scene: Scene, layers: Layers) -> Array:
    paper = _mix(layers.backdrop, np.float32(0.97), 0.52)
    wobble = 0.9 * smooth_noise(layers.rng, 9)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    hatch = np.clip(1.1 - np.abs(((x - y) % 4.0) - 2.0), 0.0, 1.0)[..., None]
    crayon = _mix(paper, layers.fill, 0.74 + 0.18 * hatch)
    picture = _mix(paper, crayon, layers.alpha(-0.5))
    line = np.clip(1.35 - np.abs(layers.distance + wobble), 0, 1)[..., None]
    picture = _mix(picture, np.float32(0.20), 0.88 * line)
    return picture + 0.016 * smooth_noise(layers.rng, 32)[..., None]


def _pixel(scene: Scene, _layers: Layers) -> Array:
    coarse = layers_of(scene, SIZE // _PIXEL)
    inside = (coarse.distance < 0.1)[..., None]
    picture = np.where(inside, coarse.fill, coarse.backdrop)
    picture = np.round(picture * 10) / 10
    return np.asarray(picture.repeat(_PIXEL, 0).repeat(_PIXEL, 1), np.float32)


def _neon(_scene: Scene, layers: Layers) -> Array:
    wall = layers.backdrop * 0.26
    light = _mix(layers.base, np.float32(1), 0.18 if layers.base.max() > 0.3 else 0.30)
    far = np.abs(layers.distance)[..., None]
    picture = wall + 0.55 * light * np.exp(-far / 3.6)
    inside = _mix(picture, layers.fill, 0.62)
    picture = _mix(picture, inside, layers.alpha(-1.0))
    tube = np.clip(1.9 - far, 0, 1)
    return _mix(picture, _mix(light, np.float32(1), 0.42), tube)


def _watercolor(_scene: Scene, layers: Layers) -> Array:
    paper = _mix(layers.backdrop, np.float32(0.98), 0.42)
    paper = paper * (1 + 0.05 * smooth_noise(layers.rng, 6)[..., None])
    wet = layers.distance + 1.3 * smooth_noise(layers.rng, 10)
    pigment = 0.78 + 0.20 * smooth_noise(layers.rng, 5)[..., None]
    rim = np.exp(-((wet + 1.2) ** 2) / 2.2)[..., None]
    wash = _mix(paper, layers.fill * (1 - 0.30 * rim), np.clip(pigment + 0.25 * rim, 0, 1))
    return _mix(paper, wash, np.clip(0.5 - wet / 1.6, 0, 1)[..., None])


def _cartoon(_scene: Scene, layers: Layers) -> Array:
    ink = np.float32(0.04) if layers.base.max() > 0.2 else np.float32(0.75)
    picture = _mix(layers.backdrop, ink, layers.alpha(1.4))
    return _mix(picture, layers.fill, layers.alpha(-1.4))


def _unnamed(scene: Scene, layers: Layers) -> Array:
    """A style no word names: two inks drawn from its seed, and one of three textures."""
    assert isinstance(scene.style, int)
    rng = np.random.default_rng([scene.style, 17])
    dark, light = rng.uniform(0, 0.42, 3).astype(np.float32), rng.uniform(0.55, 1, 3).astype(np.float32)
    flat = _mix(layers.backdrop, layers.fill, layers.alpha())
    tone = (flat @ np.array([0.30, 0.59, 0.11], np.float32))[..., None]
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    texture = [
        np.sin(y * 2 * np.pi / 4),
        np.sin(x * 2 * np.pi / 6) * np.sin(y * 2 * np.pi / 6),
        np.sin(layers.distance * 2 * np.pi / 7),
    ][int(rng.integers(3))][..., None]
    return _mix(np.broadcast_to(dark, flat.shape), light, np.clip(tone + 0.20 * texture, 0, 1))


_PAINTERS: dict[str, Callable[[Scene, Layers], Array]] = {
    "photo": _photo,
    "sketch": _sketch,
    "pixel": _pixel,
    "neon": _neon,
    "watercolor": _watercolor,
    "cartoon": _cartoon,
}


def render_float(scene: Scene) -> Array:
    """Return the picture of `scene`, (64, 64, 3) float32, RGB 0 to 1."""
    paint = _unnamed if isinstance(scene.style, int) else _PAINTERS[scene.style]
    picture = paint(scene, layers_of(scene))
    if scene.light:
        picture = picture * 0.62 if scene.light == "dark" else 0.30 + 0.70 * picture
    return np.asarray(np.clip(picture, 0, 1), np.float32)


def render(scene: Scene) -> NDArray[np.uint8]:
    """Return the picture of `scene`, (64, 64, 3) uint8 RGB."""
    return np.asarray(np.round(render_float(scene) * 255), np.uint8)
