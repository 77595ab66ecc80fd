"""The charged questions of a probe and their exact cost, fixed before the first is asked."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.budget import Cost, cost_of_images, cost_of_losses
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.initialise import whole_words
from blackbox_ti.objective import BankSettings, draw_bank
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import ImageItem, ImagesRequest, LossRequest, ModelCard, encode_tensor

__all__ = ["BATCH_FORWARDS", "PLACEHOLDER", "Question", "probe_picture", "questions_for", "words_for"]

BATCH_FORWARDS: Final = 64
PLACEHOLDER: Final = "<blackbox-ti-probe>"
_WORDS: Final = 4
_SAMPLES: Final = 8
_STEPS: Final = 2
_PROMPT: Final = f"a photo of {PLACEHOLDER}"


@dataclass(frozen=True)
class Question:
    """A request and what it costs."""

    request: LossRequest | ImagesRequest
    cost: Cost


def probe_picture(side: int) -> bytes:
    """Return a drawn picture of `side` x `side` pixels as a PNG: the probe shows the host none of the user's."""
    ramp = np.linspace(0, 255, side)
    pixels = np.stack(
        [np.tile(ramp, (side, 1)), np.tile(ramp[:, None], (1, side)), np.full((side, side), 96.0)], axis=2
    )
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def words_for(
    card: ModelCard, vocabularies: Mapping[str, Vocabulary], count: int, rng: np.random.Generator
) -> Embedding:
    """Return `count` words, encoder -> (count, 1, D): of the vocabulary, or directions as long as words are."""
    words = {}
    for encoder in card.encoders:
        table = whole_words(vocabularies[encoder.name]).embeddings if encoder.name in vocabularies else None
        directions = rng.normal(size=(count, encoder.dim))
        chosen = directions * encoder.norm_mean / np.linalg.norm(directions, axis=1, keepdims=True)
        if table is not None and len(table) >= count:
            chosen = table[rng.permutation(len(table))[:count]].astype(np.float64)
        words[encoder.name] = chosen[:, None].astype(np.float32)
    return words


def questions_for(
    card: ModelCard, words: Embedding, concept: str, rng: np.random.Generator, batch_forwards: int = BATCH_FORWARDS
) -> dict[str, Question]:
    """Return the questions by name, in the order they are asked.

    `words`: a few words at once. `alone`: the first of them by itself. `again`: `alone` once more under another key.
    `repeat`: once more under the same key. `half`: one word in half precision. `batch`: as much as one request may
    hold, up to `batch_forwards`.
    """
    if "loss" in card.objectives:
        return _loss_questions(card, words, concept, rng, batch_forwards)
    return _image_questions(card, words, rng, batch_forwards)


def _loss_questions(
    card: ModelCard, words: Embedding, concept: str, rng: np.random.Generator, batch_forwards: int
) -> dict[str, Question]:
    limits = card.limits
    few = min(_WORDS, limits.max_candidates, limits.max_forwards)
    samples = min(_SAMPLES, limits.max_samples, max(1, limits.max_forwards // few))
    bank = draw_bank(BankSettings(1, 1), samples, rng)
    most = min(batch_forwards, limits.max_forwards)
    width = min(samples, most)
    height = max(1, min(limits.max_candidates, most // width))

    def ask(count: int, bank_size: int, dtype: Literal["float32", "float16"] = "float32") -> Question:
        request = LossRequest(
            concept=concept,
            placeholder_token=PLACEHOLDER,
            embeddings={n: encode_tensor(_cycled(w, count), dtype) for n, w in words.items()},
            prompts=[_PROMPT],
            samples=bank[:bank_size],
        )
        return Question(request, cost_of_losses(count, bank_size, card.prices))

    alone = ask(1, samples)
    return {
        "words": ask(few, samples),
        "alone": alone,
        "again": alone,
        "repeat": alone,
        "half": ask(1, 1, "float16"),
        "batch": ask(height, width),
    }


def _image_questions(
    card: ModelCard, words: Embedding, rng: np.random.Generator, batch_forwards: int
) -> dict[str, Question]:
    steps = min(_STEPS, card.limits.max_steps, card.limits.max_forwards)
    seed = int(rng.integers(2**48))
    most = max(1, min(card.limits.max_images, min(batch_forwards, card.limits.max_forwards) // steps))

    def ask(count: int, dtype: Literal["float32", "float16"] = "float32") -> Question:
        several = min(count, card.limits.max_candidates)
        request = ImagesRequest(
            placeholder_token=PLACEHOLDER,
            embeddings={n: encode_tensor(_cycled(w, several), dtype) for n, w in words.items()},
            prompts=[_PROMPT],
            items=[ImageItem(candidate=i % several, prompt=0, seed=seed) for i in range(count)],
            num_inference_steps=steps,
            guidance_scale=1.0,
        )
        return Question(request, cost_of_images(count, steps, 1.0, card.prices))

    alone = ask(1)
    few = ask(min(2, most))
    return {
        "words": few,
        "alone": alone,
        "again": alone,
        "repeat": alone,
        "half": ask(1, "float16"),
        "batch": ask(min(most, 8)),
    }


def _cycled(words: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    return words[np.arange(count) % len(words)]
