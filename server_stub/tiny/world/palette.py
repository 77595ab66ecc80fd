"""What the colour words and the places look like, in linear-ish RGB between 0 and 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["PLACE_BASE", "RGB", "contrast", "secondary"]

Array = NDArray[np.float32]


def _rgb(r: int, g: int, b: int) -> Array:
    return np.asarray(np.array([r, g, b]) / 255, dtype=np.float32)


RGB: dict[str, Array] = {
    "red": _rgb(214, 36, 40),
    "orange": _rgb(243, 132, 24),
    "yellow": _rgb(247, 219, 46),
    "green": _rgb(46, 154, 62),
    "cyan": _rgb(58, 206, 206),
    "blue": _rgb(38, 76, 208),
    "purple": _rgb(126, 50, 172),
    "pink": _rgb(247, 134, 186),
    "brown": _rgb(118, 72, 38),
    "white": _rgb(246, 246, 246),
    "gray": _rgb(138, 138, 142),
    "black": _rgb(24, 24, 28),
}

PLACE_BASE: dict[str, Array] = {
    "grass": _rgb(98, 176, 70),
    "beach": _rgb(228, 202, 142),
    "snow": _rgb(232, 240, 250),
    "night": _rgb(22, 22, 58),
    "sea": _rgb(36, 116, 172),
    "bricks": _rgb(168, 88, 66),
}

_MIN_CONTRAST = 0.42


def contrast(colour: str, background: str) -> bool:
    """Return whether an object of `colour` can be told from `background`, a colour or a place."""
    backdrop = RGB[background] if background in RGB else PLACE_BASE[background]
    return float(np.linalg.norm(RGB[colour] - backdrop)) > _MIN_CONTRAST


def secondary(rgb: Array) -> Array:
    """Return the second tone of a pattern, (3,) float32: lighter than a dark colour, darker than a light one."""
    luminance = float(rgb @ np.array([0.30, 0.59, 0.11], dtype=np.float32))
    target, share = (0.05, 0.62) if luminance > 0.62 else (1.0, 0.72)
    return np.asarray(rgb * (1 - share) + target * share, dtype=np.float32)
