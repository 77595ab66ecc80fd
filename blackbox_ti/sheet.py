"""Contact sheets: rows of pictures with a caption each, as one picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

__all__ = ["contact_sheet"]

_TILE, _GAP, _LABEL = 128, 6, 22


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Return one RGB picture: each row's caption over its pictures, enlarged without blur to 128 pixels."""
    columns = max(len(images) for _, images in rows)
    width = columns * (_TILE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, len(rows) * (_TILE + _LABEL + _GAP) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for r, (caption, images) in enumerate(rows):
        top = _GAP + r * (_TILE + _LABEL + _GAP)
        draw.text((_GAP, top), caption, fill="black", font=font)
        for c, image in enumerate(images):
            tile = image.resize((_TILE, _TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (_GAP + c * (_TILE + _GAP), top + _LABEL))
    return sheet
