"""Renders 64x64 pictures with captions; a tenth of the (shape, colour, pattern) combinations is never trained on."""

from server_stub.tiny.world.captions import caption, full_caption
from server_stub.tiny.world.scene import Scene, concept_scenes, held_out_combinations, random_scene, subject_scenes
from server_stub.tiny.world.styles import render
from server_stub.tiny.world.words import vocabulary

__all__ = [
    "Scene",
    "caption",
    "concept_scenes",
    "full_caption",
    "held_out_combinations",
    "random_scene",
    "render",
    "subject_scenes",
    "vocabulary",
]
