"""Stage 2: the small CLIP, by contrast of pictures and captions and by naming each known attribute."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor
from transformers import CLIPTokenizer

from server_stub.tiny.train.data import Pictures, step_rng, to_tensor
from server_stub.tiny.train.tokenizer import CONTEXT_LENGTH
from server_stub.tiny.world import Scene, words

__all__ = ["build_towers", "clip_config", "tokenize", "towers_loss"]

_TEMPLATES = ("{}", "a photo of {}", "a picture of {}", "an image of {}", "a rendering of {}", "a cropped photo of {}")


def clip_config(vocab_size: int) -> dict[str, Any]:
    """Return the model's configuration as `open_clip_config.json` holds it."""
    return {
        "embed_dim": 256,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 20, "head_width": 64},
        "text_cfg": {"context_length": CONTEXT_LENGTH, "vocab_size": vocab_size, "width": 256, "heads": 4, "layers": 2},
    }


def build_towers(vocab_size: int) -> CLIP:
    """Return the untrained CLIP: a ResNet over 64x64 pictures, a transformer of width 256 over words."""
    return CLIP(**clip_config(vocab_size))


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return token ids (n, CONTEXT_LENGTH) int64, padded as the pipeline pads."""
    encoded = tokenizer(captions, padding="max_length", truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt")
    return torch.as_tensor(encoded.input_ids)


def _phrase_tables() -> dict[str, tuple[list[str], list[list[str]]]]:
    """Attribute -> (values, for each the phrases that name it)."""
    nouns = {k: [f"a {w}" for w in v] for k, v in words.SHAPES.items()}
    colours = {k: [f"a {w} thing" for w in v] + [f"something {w}" for w in v] for k, v in words.COLOURS.items()}
    patterns = {k: [f"a {w} thing" for w in v] for k, v in words.PATTERNS.items()}
    grounds = {k: [f.format(w) for f in words.BACKGROUND_FORMS for w in v] for k, v in words.COLOURS.items()}
    grounds |= {k: list(v) for k, v in words.PLACES.items()}
    styles = {k: [f"{w} something" for w in v] for k, v in words.STYLE_PREFIXES.items()}
    sizes = {k: [f"a {w} thing" for w in v] for k, v in words.SIZES.items()}
    places = {k: [f"something {w}" for w in v] for k, v in words.POSITIONS.items()}
    tables = {"shape": nouns, "colour": colours, "pattern": patterns, "background": grounds, "style": styles}
    tables |= {"size": sizes, "position": places}
    return {name: (list(t), list(t.values())) for name, t in tables.items()}


_TABLES = _phrase_tables()
_WEIGHTS = {"shape": 1.0, "colour": 1.0, "pattern": 1.0, "background": 0.5, "style": 0.3, "size": 0.1, "position": 0.2}


def _prompts(rng: np.random.Generator) -> tuple[list[str], dict[str, slice]]:
    """One phrase for each value of each attribute, and where each attribute's phrases lie."""
    prompts: list[str] = []
    spans: dict[str, slice] = {}
    for name, (_, phrases) in _TABLES.items():
        template = "{}" if name == "style" else _TEMPLATES[int(rng.integers(len(_TEMPLATES)))]
        spans[name] = slice(len(prompts), len(prompts) + len(phrases))
        prompts += [template.format(p[int(rng.integers(len(p)))]) for p in phrases]
    return prompts, spans


def _targets(scenes: list[Scene], attribute: str) -> Tensor:
    values = _TABLES[attribute][0]
    return torch.tensor([values.index(getattr(scene, attribute)) for scene in scenes])


def towers_loss(model: CLIP, tokenizer: CLIPTokenizer, pictures: Pictures, seed: int, step: int, batch: int) -> Tensor:
    """Return the loss of one step: contrast both ways, plus naming each attribute among its phrases."""
    rng = step_rng(seed, "towers", step)
    indices, captions = pictures.batch(rng, batch)
    scenes = [pictures.scenes[i] for i in indices]
    prompts, spans = _prompts(rng)
    device = model.logit_scale.device
    x = to_tensor(pictures.pixels[indices]) + torch.from_numpy(
        rng.normal(0, 0.02, (batch, 3, 64, 64)).astype("float32")
    )
    with torch.autocast(str(device.type), torch.bfloat16):
        image = F.normalize(model.encode_image(x.to(device)).float(), dim=-1)
        text = F.normalize(model.encode_text(tokenize(tokenizer, captions + prompts).to(device)).float(), dim=-1)
    scale = model.logit_scale.exp().clamp(max=60)
    logits = scale * image @ text.T
    labels = torch.arange(batch, device=device)
    loss = 0.5 * (F.cross_entropy(logits[:, :batch], labels) + F.cross_entropy(logits[:, :batch].T, labels))
    for name, span in spans.items():
        named = logits[:, batch:][:, span]
        loss = loss + _WEIGHTS[name] * F.cross_entropy(named, _targets(scenes, name).to(device))
    return loss
