"""What is inverted: held-out combinations, subjects no word names, and styles no word names, each with its edits.

The matrix is measured on `MATRIX`; everything that was tuned (learning rates, the search's own knobs) was tuned on
`DEVELOPMENT`, which shares no concept with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image

from blackbox_ti.concept import encode_png
from blackbox_ti.objective import ObjectProperty
from server_stub.tiny.world import (
    Scene,
    concept_scenes,
    held_out_combinations,
    random_scene,
    render,
    subject_scenes,
    words,
)
from server_stub.tiny.world.palette import contrast

__all__ = ["DEVELOPMENT", "MATRIX", "SUBSET", "Edit", "Subject", "style_renders", "subject_named"]

REFERENCES = 5
_REFERENCE_SEED = 1000
_BACKGROUNDS = ("blue", "yellow", "green", "red", "white")
_PLACES = ("snow", "grass", "night")
_EDIT_STYLES = ("sketch", "pixel")
_STYLE_CONTENTS = (("heart", "red"), ("star", "blue"), ("fish", "green"), ("house", "yellow"))


@dataclass(frozen=True)
class Edit:
    """A prompt that asks something new of the concept: `{}` stands for the word.

    `attribute` named `value` on the picture means that the prompt was followed; `plain` is what CLIP-T compares with.
    """

    prompt: str
    plain: str
    attribute: str
    value: str


@dataclass(frozen=True)
class Subject:
    """A concept: its reference scenes, what a person would call it, and what must be seen on a good picture."""

    name: str
    scenes: Sequence[Scene] = field(repr=False)
    words: str | None
    attributes: Mapping[str, str]
    edits: Sequence[Edit] = field(repr=False)
    style: int | None = None

    @property
    def learnable_property(self) -> ObjectProperty:
        """What the word is to mean."""
        return "object" if self.style is None else "style"

    @property
    def kind(self) -> str:
        """Whether words name it, none does, or it is a style."""
        return "style" if self.style is not None else "named" if "shape" in self.attributes else "unnamed"

    @property
    def portraits(self) -> Sequence[str]:
        """Prompts that ask for nothing but the concept."""
        if self.style is None:
            return ["a photo of a {}"]
        return ["a painting in the style of {}"]

    def references(self) -> list[Image.Image]:
        """Return the pictures that a user would give."""
        return [Image.fromarray(render(scene)) for scene in self.scenes]

    @cached_property
    def digest(self) -> str:
        """Return a hash of the pictures and the questions."""
        content = b"".join(map(encode_png, self.references())) + repr((self.edits, self.attributes)).encode()
        return hashlib.sha256(content).hexdigest()


def _object_edits(scene: Scene) -> list[Edit]:
    background = next(b for b in _BACKGROUNDS if contrast(scene.colour, b))
    place = next(p for p in _PLACES if contrast(scene.colour, p))
    where = [(f"on a {background} background", background), (words.PLACES[place][0], place)]
    styles = [(words.STYLE_PREFIXES[s][0], s) for s in _EDIT_STYLES]
    return [
        *(
            Edit(f"a photo of a {{}} {said}", f"a photo of a thing {said}", "background", value)
            for said, value in where
        ),
        *(Edit(f"{said} a {{}}", f"{said} a thing", "style", value) for said, value in styles),
    ]


def _named(shape: str, colour: str, pattern: str) -> Subject:
    combination = (shape, colour, pattern)
    assert combination in held_out_combinations(), combination
    scenes = concept_scenes(combination, REFERENCES, _REFERENCE_SEED)
    said = f"{words.COLOURS[colour][0]} {words.PATTERNS[pattern][0]} {words.SHAPES[shape][0]}"
    attributes = {"shape": shape, "colour": colour, "pattern": pattern}
    return Subject("-".join((colour, pattern, shape)), scenes, said, attributes, _object_edits(scenes[0]))


def _unnamed(seed: int) -> Subject:
    scenes = subject_scenes(seed, REFERENCES, _REFERENCE_SEED)
    colour, pattern = scenes[0].colour, scenes[0].pattern
    said = f"{words.COLOURS[colour][0]} {words.PATTERNS[pattern][0]} thing"
    return Subject(f"unnamed-{seed}", scenes, said, {"colour": colour, "pattern": pattern}, _object_edits(scenes[0]))


def _style(seed: int) -> Subject:
    rng = np.random.default_rng([_REFERENCE_SEED, seed])
    scenes = [random_scene(rng, style=seed) for _ in range(REFERENCES)]
    edits = [
        Edit(f"a {colour} {shape} in the style of {{}}", f"a {colour} {shape}", "shape", shape)
        for shape, colour in _STYLE_CONTENTS
    ]
    return Subject(f"style-{seed}", scenes, None, {}, edits, seed)


MATRIX: tuple[Subject, ...] = (
    _named("arrow", "green", "solid"),
    _named("ring", "pink", "dotted"),
    _named("moon", "brown", "striped"),
    _named("star", "orange", "striped"),
    _named("mushroom", "purple", "checkered"),
    _named("fish", "blue", "solid"),
    _named("flower", "white", "dotted"),
    _named("crown", "red", "checkered"),
    *(_unnamed(seed) for seed in (101, 102, 103, 104)),
    *(_style(seed) for seed in (301, 302, 303, 304)),
)
SUBSET: tuple[str, ...] = ("brown-striped-moon", "purple-checkered-mushroom", "unnamed-101", "style-301")
DEVELOPMENT: tuple[Subject, ...] = (
    _named("heart", "orange", "striped"),
    _unnamed(201),
    _style(401),
    _named("house", "red", "dotted"),
    _named("fish", "white", "solid"),
)


def subject_named(name: str) -> Subject:
    """Return a subject of the matrix or of development by name."""
    return next(s for s in (*MATRIX, *DEVELOPMENT) if s.name == name)


def style_renders(count: int) -> dict[str | int, list[Image.Image]]:
    """Return fresh pictures of every style, named or not, whose contents are drawn alike."""
    styles: list[str | int] = [*words.STYLE_PREFIXES]
    styles += [s.style for s in (*MATRIX, *DEVELOPMENT) if s.style is not None]
    drawn: dict[str | int, list[Image.Image]] = {}
    for style in styles:
        rng = np.random.default_rng(_REFERENCE_SEED + 1)
        drawn[style] = [Image.fromarray(render(random_scene(rng, style=style))) for _ in range(count)]
    return drawn
