"""Captions: what a person might say of a scene, with attributes left out at random so that words mean what they say."""

from __future__ import annotations

import numpy as np

from server_stub.tiny.world import words
from server_stub.tiny.world.scene import Scene

__all__ = ["caption", "full_caption"]


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """One of the ways to say it, the first (the canonical) half of the time."""
    return options[0] if rng.random() < 0.5 else options[int(rng.integers(len(options)))]


def _article(phrase: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.2:
        return "the"
    return "an" if phrase[:1] in "aeiou" else "a"


def _adjectives(scene: Scene, rng: np.random.Generator) -> list[str]:
    said = []
    if rng.random() < 0.06:
        said.append(words.NEUTRAL_ADJECTIVES[int(rng.integers(len(words.NEUTRAL_ADJECTIVES)))])
    if rng.random() < (0.30 if scene.size != "medium" else 0.05):
        said.append(_pick(rng, words.SIZES[scene.size]))
    if scene.tilted and rng.random() < 0.6:
        said.append(_pick(rng, words.TILTED))
    return said


def _noun_phrase(scene: Scene, rng: np.random.Generator) -> str:
    parts = _adjectives(scene, rng)
    if rng.random() < 0.78:
        parts.append(_pick(rng, words.COLOURS[scene.colour]))
    pattern_odds = 0.75 if scene.pattern != "solid" else 0.35
    how = rng.random()
    tail = ""
    if how < pattern_odds:
        if scene.pattern in words.PATTERN_NOUNS and how < 0.18:
            tail = " with " + _pick(rng, words.PATTERN_NOUNS[scene.pattern])
        else:
            parts.append(_pick(rng, words.PATTERNS[scene.pattern]))
    if scene.material and rng.random() < 0.8:
        parts.append(_pick(rng, words.MATERIALS[scene.material]))
    named = isinstance(scene.shape, str) and rng.random() < 0.90
    noun = _pick(rng, words.SHAPES[str(scene.shape)] if named else words.GENERIC_NOUNS)
    if noun == "something":
        return " ".join([noun, *parts]) + tail
    phrase = " ".join([*parts, noun])
    return (f"{_article(phrase, rng)} {phrase}" if rng.random() < 0.85 else phrase) + tail


def _prefix(scene: Scene, rng: np.random.Generator) -> str:
    named_style = isinstance(scene.style, str)
    draw = rng.random()
    light = f"{_pick(rng, words.LIGHTS[scene.light])} " if scene.light and rng.random() < 0.8 else ""
    if named_style and draw < 0.55:
        said = _pick(rng, words.STYLE_PREFIXES[str(scene.style)])
    elif draw < 0.80 or light:
        said = words.NEUTRAL_PREFIXES[int(rng.integers(len(words.NEUTRAL_PREFIXES)))]
    else:
        return ""
    head, _, rest = said.partition(" ")
    return f"{'a' if light else head} {light}{rest} " if rest else said


def _suffixes(scene: Scene, rng: np.random.Generator) -> list[str]:
    said = []
    if scene.background in words.PLACES:
        if rng.random() < 0.75:
            said.append(_pick(rng, words.PLACES[scene.background]))
    elif rng.random() < 0.60:
        said.append(_pick(rng, words.BACKGROUND_FORMS).format(_pick(rng, words.COLOURS[scene.background])))
    if rng.random() < (0.35 if scene.position != "center" else 0.05):
        said.append(_pick(rng, words.POSITIONS[scene.position]))
    return [said[i] for i in rng.permutation(len(said))]


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return a caption of `scene` in lower case, some attributes left out by chance."""
    prefix = _prefix(scene, rng)
    parts = [prefix + _noun_phrase(scene, rng), *_suffixes(scene, rng)]
    if isinstance(scene.style, str) and rng.random() < (0.30 if not prefix else 0.06):
        parts.append(_pick(rng, words.STYLE_SUFFIXES[scene.style]))
    return " ".join(parts)


def full_caption(scene: Scene) -> str:
    """Return the caption that names shape, colour, pattern, background and style by their canonical words."""
    noun = words.SHAPES[scene.shape][0] if isinstance(scene.shape, str) else "thing"
    pattern = words.PATTERNS[scene.pattern][0]
    style = words.STYLE_PREFIXES[scene.style][0] if isinstance(scene.style, str) else "a picture of"
    place = scene.background in words.PLACES
    where = words.PLACES[scene.background][0] if place else f"on a {words.COLOURS[scene.background][0]} background"
    return f"{style} a {words.COLOURS[scene.colour][0]} {pattern} {noun} {where}"
