"""What a picture holds: the attributes of a scene, drawn at random, and the combinations kept out of training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np

from server_stub.tiny.world import words
from server_stub.tiny.world.palette import contrast

__all__ = ["Scene", "concept_scenes", "held_out_combinations", "random_scene", "subject_scenes"]

_RADIUS = {"small": (13.0, 15.0), "medium": (17.0, 19.5), "large": (22.5, 25.0)}
_STYLE_ODDS = {"photo": 0.45, "sketch": 0.11, "pixel": 0.11, "neon": 0.11, "watercolor": 0.11, "cartoon": 0.11}
_SPLIT_SEED = 20230405
HELD_OUT_SHARE = 0.1
T = TypeVar("T")

# Brightness cannot be told from colour where the style replaces the light.
_LIT_STYLES = ("photo", "cartoon")


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture's attributes.

    `shape` is a word of `words.SHAPES`, or an int: the seed of a subject that no word names.
    `style` is a word of `words.STYLE_PREFIXES`, or an int: the seed of a style that no word names.
    `background` is a colour, or a place of `words.PLACES`. `radius`, `x` and `y` are in pixels of 64, `angle` in
    degrees; `seed` draws what no word tells (grain, jitter, phase of the pattern).
    """

    shape: str | int
    colour: str
    pattern: str
    size: str
    position: str
    background: str
    style: str | int
    material: str | None
    light: str | None
    tilted: bool
    radius: float
    x: float
    y: float
    angle: float
    seed: int


@lru_cache(maxsize=1)
def held_out_combinations() -> frozenset[tuple[str, str, str]]:
    """Return the (shape, colour, pattern) combinations, a tenth of all, that no training picture shows."""
    combos = [(s, c, p) for s in words.SHAPES for c in words.COLOURS for p in words.PATTERNS]
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(combos))
    return frozenset(combos[i] for i in order[: round(HELD_OUT_SHARE * len(combos))])


def _choice(rng: np.random.Generator, options: list[T] | tuple[T, ...]) -> T:
    return options[int(rng.integers(len(options)))]


def _place(rng: np.random.Generator, position: str, radius: float) -> tuple[float, float]:
    """Centre of the object in pixels; never closer to the border than a pixel."""
    room = 31.0 - radius

    def near() -> float:
        return float(rng.uniform(-0.12, 0.12) * room)

    far = float(rng.uniform(0.75, 1.0) * room)
    dx, dy = {
        "center": (near(), near()),
        "left": (-far, near()),
        "right": (far, near()),
        "top": (near(), -far),
        "bottom": (near(), far),
    }[position]
    return 32.0 + dx, 32.0 + dy


def _background(rng: np.random.Generator, colour: str, style: str | int) -> str:
    """A backdrop the object stands out from."""
    places = list(words.PLACES) if style in ("photo", "cartoon", "pixel", "watercolor") and rng.random() < 0.22 else []
    options = [b for b in places or list(words.COLOURS) if contrast(colour, b)]
    return _choice(rng, options or [b for b in words.COLOURS if contrast(colour, b)])


def _geometry(rng: np.random.Generator, style: str | int) -> dict[str, object]:
    sizes = {"small": 0.2, "medium": 0.4, "large": 0.4} if style != "pixel" else {"medium": 0.4, "large": 0.6}
    size = str(rng.choice(list(sizes), p=list(sizes.values())))
    radius = float(rng.uniform(*_RADIUS[size]))
    off_centre = size != "large" and rng.random() < 0.45
    position = _choice(rng, ("left", "right", "top", "bottom")) if off_centre else "center"
    x, y = _place(rng, position, radius)
    tilted = style != "pixel" and rng.random() < 0.12
    angle = float(rng.uniform(20, 35) * _choice(rng, (-1, 1)) if tilted else rng.uniform(-6, 6))
    return {"size": size, "radius": radius, "position": position, "x": x, "y": y, "tilted": tilted, "angle": angle}


def random_scene(
    rng: np.random.Generator,
    *,
    combination: tuple[str | int, str, str] | None = None,
    style: str | int | None = None,
) -> Scene:
    """Draw a scene; without `combination`, one of those not held out."""
    while combination is None:
        drawn = (
            _choice(rng, list(words.SHAPES)),
            _choice(rng, list(words.COLOURS)),
            _choice(rng, list(words.PATTERNS)),
        )
        combination = drawn if drawn not in held_out_combinations() else None
    shape, colour, pattern = combination
    if style is None:
        style = str(rng.choice(list(_STYLE_ODDS), p=list(_STYLE_ODDS.values())))
    material = _choice(rng, list(words.MATERIALS)) if style == "photo" and rng.random() < 0.25 else None
    light = _choice(rng, list(words.LIGHTS)) if style in _LIT_STYLES and rng.random() < 0.1 else None
    return Scene(
        shape=shape,
        colour=colour,
        pattern=pattern,
        background=_background(rng, colour, style),
        style=style,
        material=material,
        light=light,
        seed=int(rng.integers(2**31)),
        **_geometry(rng, style),  # type: ignore[arg-type]
    )


def concept_scenes(combination: tuple[str | int, str, str], count: int, seed: int) -> list[Scene]:
    """Draw `count` photos of one (shape, colour, pattern), the rest of each scene left to chance."""
    rng = np.random.default_rng([seed, 7])
    scenes = [random_scene(rng, combination=combination, style="photo") for _ in range(count)]
    return [replace(scene, material=None, light=None) for scene in scenes]


def subject_scenes(subject: int, count: int, seed: int) -> list[Scene]:
    """Draw `count` photos of the subject that no word names, whose outline and colours come from `subject`."""
    rng = np.random.default_rng([subject, 11])
    colour, pattern = _choice(rng, list(words.COLOURS)), _choice(rng, list(words.PATTERNS))
    return concept_scenes((subject, colour, pattern), count, seed)
