"""Contact sheets."""

from __future__ import annotations

from PIL import Image

from blackbox_ti.sheet import contact_sheet


def test_pictures_lie_in_rows_enlarged_without_blur() -> None:
    """Each picture fills its tile with its own colours."""
    red, blue = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    sheet = contact_sheet([("first", [red, blue]), ("second", [blue])])
    assert sheet.size == (2 * 134 + 6, 2 * 156 + 6)
    assert sheet.getpixel((70, 100)) == (255, 0, 0)
    assert sheet.getpixel((200, 100)) == (0, 0, 255)
    assert sheet.getpixel((70, 250)) == (0, 0, 255)
    assert sheet.getpixel((200, 250)) == (255, 255, 255)
    colours = {c for _, c in sheet.crop((6, 28, 274, 156)).getcolors() or []}
    assert colours == {(255, 0, 0), (0, 0, 255), (255, 255, 255)}
