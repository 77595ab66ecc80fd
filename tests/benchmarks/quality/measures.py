"""What a learned word is worth: loss on a large bank no search sees, and what is seen on the pictures it makes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blackbox_ti.objective import BankSettings, draw_bank, prompts_for
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import Sample, encode_tensor
from tests.benchmarks.quality.methods import Learned
from tests.benchmarks.quality.subjects import Edit, Subject, style_renders
from tests.benchmarks.quality.workbench import WORD, Workbench

__all__ = ["HELDOUT", "StyleNamer", "heldout_bank", "heldout_loss", "measure", "portraits"]

HELDOUT, CURVE = 384, 96
PORTRAITS, PER_EDIT = 12, 3
_SEED = 987_654_321
_STYLE_RENDERS = 24


class StyleNamer:
    """Names a picture's style, those without a word among them: the nearest mean of CLIP features of fresh renders."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        renders = style_renders(_STYLE_RENDERS)
        self._names = list(renders)
        means = np.stack([bench.clip.image_features(pictures).mean(axis=0) for pictures in renders.values()])
        self._means = means / np.linalg.norm(means, axis=1, keepdims=True)

    def name(self, images: Sequence[Image.Image]) -> list[str | int]:
        """Return a style for each picture: its word, or the seed of one that has none."""
        nearest = (self._bench.clip.image_features(images) @ self._means.T).argmax(axis=1)
        return [self._names[i] for i in nearest]


def heldout_bank(subject: Subject) -> list[Sample]:
    """Return the bank of a subject, the same for every method, seed and mark."""
    prompts = len(prompts_for(subject.learnable_property, WORD))
    rng = np.random.default_rng([_SEED, zlib.crc32(subject.name.encode())])
    return draw_bank(BankSettings(len(subject.scenes), prompts), HELDOUT, rng)


def heldout_loss(
    bench: Workbench, subject: Subject, latents: Tensor, embedding: Embedding, spoken: str = WORD, size: int = HELDOUT
) -> float:
    """Return the mean loss of a word, or of words `spoken` in its place, on the first `size` samples of the bank.

    `latents` (n, C, h, w) are those of the subject's references.
    """
    prompts = [p.replace(WORD, spoken) for p in prompts_for(subject.learnable_property, WORD)]
    one = {n: v[None] for n, v in embedding.items()}
    return float(bench.scored(one, latents, prompts, heldout_bank(subject)[:size]).mean())


def measure(
    bench: Workbench, styles: StyleNamer, subject: Subject, learned: Learned, *, pictures: bool = True
) -> dict[str, Any]:
    """Return every figure of one learned word; a quantity that has no meaning for the subject is left out."""
    latents = bench.latents(subject.references())
    embedding, spoken = _embedding(bench, learned), learned.words or WORD
    figures: dict[str, Any] = {
        "heldout_loss": heldout_loss(bench, subject, latents, embedding, spoken),
        "curve": [[n, heldout_loss(bench, subject, latents, word, spoken, CURVE)] for n, word in learned.trail],
        "norm": float(np.linalg.norm(embedding[bench.encoder], axis=-1).mean()) if learned.embedding else None,
        "embedding": {n: encode_tensor(v).model_dump() for n, v in embedding.items()} if learned.embedding else None,
    }
    return figures | (_seen(bench, styles, subject, embedding, spoken) if pictures else {})


def portraits(bench: Workbench, subject: Subject, embedding: Embedding, spoken: str, count: int) -> list[Image.Image]:
    """Return pictures that ask for nothing but the concept."""
    prompts = [subject.portraits[i % len(subject.portraits)].format(spoken) for i in range(count)]
    return bench.pictures(embedding, prompts, range(count))


def _embedding(bench: Workbench, learned: Learned) -> Embedding:
    if learned.embedding is not None:
        return learned.embedding
    (encoder,) = bench.engine.info.encoders
    return {encoder.name: np.zeros((1, encoder.dim), np.float32)}


def _seen(
    bench: Workbench, styles: StyleNamer, subject: Subject, embedding: Embedding, spoken: str
) -> dict[str, float | None]:
    references = bench.clip.image_features(subject.references())
    plain = portraits(bench, subject, embedding, spoken, PORTRAITS)
    asked = [edit for edit in subject.edits for _ in range(PER_EDIT)]
    edited = bench.pictures(embedding, [e.prompt.format(spoken) for e in asked], range(len(asked)))
    survived = _recognised(bench, styles, subject, edited)
    followed = _followed(bench, asked, edited)
    return {
        "clip_i": _likeness(bench.clip.image_features(plain), references),
        "attributes": float(np.mean(_recognised(bench, styles, subject, plain))),
        "edit_clip_i": _likeness(bench.clip.image_features(edited), references),
        "edit_clip_t": _paired(bench.clip.image_features(edited), bench.clip.text_features([e.plain for e in asked])),
        "edit_survived": float(np.mean(survived)),
        "edit_followed": float(np.mean(followed)),
        "edit_both": float(np.mean(survived * followed)),
    }


def _likeness(features: NDArray[np.float32], references: NDArray[np.float32]) -> float:
    return float((features @ references.T).mean())


def _paired(features: NDArray[np.float32], texts: NDArray[np.float32]) -> float:
    return float((features * texts).sum(axis=1).mean())


def _recognised(
    bench: Workbench, styles: StyleNamer, subject: Subject, images: Sequence[Image.Image]
) -> NDArray[np.float64]:
    """The share of the concept's attributes named right on each picture; of a style, whether it is named."""
    if subject.style is not None:
        return np.array([style == subject.style for style in styles.name(images)], np.float64)
    named: list[Mapping[str, str]] = list(bench.namer.name(images))
    return np.array([np.mean([n[a] == v for a, v in subject.attributes.items()]) for n in named])


def _followed(bench: Workbench, asked: Sequence[Edit], images: Sequence[Image.Image]) -> NDArray[np.float64]:
    named = bench.namer.name(images)
    return np.array([n[edit.attribute] == edit.value for n, edit in zip(named, asked, strict=True)], np.float64)
