"""The pictures that tests between processes learn from."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from blackbox_ti.demo import DEMO_CONCEPT
from server_stub.tiny.world import concept_scenes, render

__all__ = ["references"]


def references(folder: Path) -> Path:
    """Render three pictures of a concept that the model never saw."""
    folder.mkdir()
    for i, scene in enumerate(concept_scenes(DEMO_CONCEPT, 3, 0)):
        Image.fromarray(render(scene)).save(folder / f"{i}.png")
    return folder
