"""Every word the world knows: one table an attribute, canonical name to the ways of saying it.

Only words live here; what they look like is in `shapes`, `palette` and `styles`.
"""

from __future__ import annotations

__all__ = [
    "BACKGROUND_FORMS",
    "COLOURS",
    "GENERIC_NOUNS",
    "LIGHTS",
    "MATERIALS",
    "NEUTRAL_ADJECTIVES",
    "NEUTRAL_PREFIXES",
    "PATTERNS",
    "PATTERN_NOUNS",
    "PLACES",
    "POSITIONS",
    "SHAPES",
    "SIZES",
    "STYLE_PREFIXES",
    "STYLE_SUFFIXES",
    "TILTED",
    "vocabulary",
]

Table = dict[str, tuple[str, ...]]

SHAPES: Table = {
    "circle": ("circle", "disc", "ball", "disk", "sphere"),
    "square": ("square", "box", "block", "cube", "tile"),
    "triangle": ("triangle", "wedge", "pyramid", "cone"),
    "star": ("star", "starfish", "asterisk", "pentagram"),
    "heart": ("heart", "valentine", "sweetheart"),
    "cross": ("cross", "plus", "crucifix"),
    "ring": ("ring", "hoop", "donut", "wheel", "tyre"),
    "moon": ("moon", "crescent", "sickle", "banana"),
    "arrow": ("arrow", "pointer", "cursor", "dart"),
    "house": ("house", "home", "hut", "cottage", "cabin"),
    "tree": ("tree", "pine", "fir", "spruce", "conifer"),
    "fish": ("fish", "goldfish", "carp", "trout"),
    "lightning": ("lightning", "bolt", "thunderbolt", "zigzag"),
    "crown": ("crown", "tiara", "coronet", "diadem"),
    "flower": ("flower", "daisy", "blossom", "bloom"),
    "mushroom": ("mushroom", "toadstool", "fungus", "champignon"),
}

COLOURS: Table = {
    "red": ("red", "crimson", "scarlet", "ruby"),
    "orange": ("orange", "tangerine", "apricot", "amber"),
    "yellow": ("yellow", "golden", "lemon", "mustard"),
    "green": ("green", "emerald", "olive", "lime"),
    "cyan": ("cyan", "turquoise", "teal", "aqua"),
    "blue": ("blue", "azure", "navy", "cobalt"),
    "purple": ("purple", "violet", "lavender", "plum"),
    "pink": ("pink", "rose", "magenta", "fuchsia"),
    "brown": ("brown", "chocolate", "tan", "coffee"),
    "white": ("white", "ivory", "milky", "pale"),
    "gray": ("gray", "grey", "silver", "ashen"),
    "black": ("black", "ebony", "jet", "inky"),
}

PATTERNS: Table = {
    "solid": ("plain", "solid", "uniform", "unpatterned"),
    "striped": ("striped", "stripy", "lined", "barred"),
    "dotted": ("dotted", "spotted", "speckled", "dotty"),
    "checkered": ("checkered", "checked", "chequered", "plaid"),
}

PATTERN_NOUNS: Table = {
    "striped": ("stripes", "lines", "bars", "bands"),
    "dotted": ("dots", "spots", "speckles", "polka dots"),
    "checkered": ("checks", "squares", "a checkerboard", "a chessboard pattern"),
}

SIZES: Table = {
    "small": ("small", "little", "tiny", "mini", "miniature"),
    "medium": ("medium",),
    "large": ("large", "big", "huge", "giant", "enormous", "closeup"),
}

POSITIONS: Table = {
    "center": ("in the center", "in the middle", "centered"),
    "left": ("on the left", "at the left", "to the left side", "leftmost"),
    "right": ("on the right", "at the right", "to the right side", "rightmost"),
    "top": ("at the top", "in the upper half", "above", "high up"),
    "bottom": ("at the bottom", "in the lower half", "below", "low down"),
}

TILTED = ("tilted", "rotated", "slanted", "leaning", "turned")

LIGHTS: Table = {
    "bright": ("bright", "sunny", "radiant", "overexposed"),
    "dark": ("dark", "dim", "gloomy", "underexposed"),
}

MATERIALS: Table = {
    "metal": ("metal", "metallic", "steel", "chrome", "iron"),
    "wooden": ("wooden", "wood", "timber", "oak"),
    "glass": ("glass", "crystal", "transparent", "translucent"),
    "stone": ("stone", "rocky", "granite", "marble"),
    "plastic": ("plastic", "glossy", "shiny", "polished", "rubber"),
}

PLACES: Table = {
    "grass": ("on grass", "in a meadow", "on the lawn", "in a field", "in the garden"),
    "beach": ("on the beach", "on sand", "in the desert", "at the seaside"),
    "snow": ("in the snow", "in winter", "on ice", "in the arctic"),
    "night": ("at night", "in space", "under a starry sky", "in the dark sky"),
    "sea": ("in the sea", "in water", "in the ocean", "under water"),
    "bricks": ("on a brick wall", "against bricks", "on a wall", "against masonry"),
}

BACKGROUND_FORMS = (
    "on a {} background",
    "on {}",
    "with a {} background",
    "in front of a {} backdrop",
    "against a {} backdrop",
    "on {} paper",
)

STYLE_PREFIXES: Table = {
    "photo": ("a photo of", "a photograph of", "a snapshot of", "a realistic picture of"),
    "sketch": ("a sketch of", "a pencil drawing of", "a doodle of", "a charcoal drawing of"),
    "pixel": ("pixel art of", "an eight bit sprite of", "a pixelated picture of", "a retro game icon of"),
    "neon": ("a neon sign of", "a neon light of", "a glowing sign of", "a luminous outline of"),
    "watercolor": ("a watercolor of", "a watercolor painting of", "an aquarelle of", "a gouache of"),
    "cartoon": ("a cartoon of", "a comic drawing of", "a clipart of", "a sticker of", "an emoji of"),
}

STYLE_SUFFIXES: Table = {
    "photo": ("in realistic style", "photographed", "as a photo"),
    "sketch": ("in sketch style", "sketched", "in the style of a sketch", "drawn in pencil"),
    "pixel": ("in pixel style", "as pixel art", "in the style of pixel art", "pixelated"),
    "neon": ("in neon style", "as a neon sign", "in the style of neon", "glowing"),
    "watercolor": ("in watercolor style", "in watercolors", "in the style of watercolor", "painted"),
    "cartoon": ("in cartoon style", "as a cartoon", "in the style of a cartoon", "outlined"),
}

NEUTRAL_PREFIXES = (
    "a picture of",
    "an image of",
    "a rendering of",
    "a depiction of",
    "a rendition of",
    "an illustration of",
    "an artwork of",
    "a view of",
    "a cropped picture of",
    "a close picture of",
    "a good picture of",
    "a painting of",
)

NEUTRAL_ADJECTIVES = ("nice", "cool", "clean", "dirty", "weird", "good", "beautiful", "simple", "single", "pretty")

GENERIC_NOUNS = ("thing", "object", "shape", "item", "figure", "toy", "something")

_TEMPLATE_WORDS = (
    *("a", "an", "the", "one", "my", "this", "that", "of", "in", "on", "at"),
    *("with", "and", "is", "it", "there", "here", "by", "from", "style", "photo", "cropped"),
)


def _phrases() -> list[str]:
    tables = (SHAPES, COLOURS, PATTERNS, PATTERN_NOUNS, SIZES, POSITIONS, LIGHTS, MATERIALS, PLACES)
    phrases = [p for t in (*tables, STYLE_PREFIXES, STYLE_SUFFIXES) for row in t.values() for p in row]
    phrases += [*TILTED, *BACKGROUND_FORMS, *NEUTRAL_PREFIXES, *NEUTRAL_ADJECTIVES, *GENERIC_NOUNS]
    return [*phrases, *_TEMPLATE_WORDS]


def vocabulary() -> list[str]:
    """Return every word of the world once, sorted."""
    return sorted({w for p in _phrases() for w in p.replace("{}", "").split()})
