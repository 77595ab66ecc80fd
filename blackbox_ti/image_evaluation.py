"""Candidates to numbers through pictures: for hosts that turn an embedding into a picture and do nothing else.

The reference pictures stay here: the host is asked for pictures, and a `Scorer` of the user's own judges them. All
candidates of a generation are drawn from the same (prompt, seed) pairs, the next generation from others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from PIL import Image

from blackbox_ti.batching import Block, pack
from blackbox_ti.budget import Cost, cost_of_images
from blackbox_ti.endpoint import Endpoint
from blackbox_ti.errors import InputError
from blackbox_ti.evaluation import Array, ObjectiveName, Purpose, Scores, Spent, ask_blocks, placeholder_told
from blackbox_ti.objective import evenly, fitness_of
from blackbox_ti.replies import decode_png
from blackbox_ti.scorers import Scorer, checked_scores
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import ImageItem, ImagesReply, ImagesRequest, Limits, ModelCard, encode_tensor, images_cost

__all__ = ["ImageEvaluator", "ImageSample", "PictureSettings", "cost_of_bank"]


@dataclass(frozen=True)
class ImageSample:
    """One question of a bank: a prompt by index, and the seed of the picture's first latents."""

    prompt: int
    seed: int


@dataclass(frozen=True)
class PictureSettings:
    """How pictures are made while searching; `size` is their width and height in pixels."""

    num_inference_steps: int
    guidance_scale: float
    size: int

    @property
    def forwards(self) -> int:
        """What one picture costs."""
        return images_cost(1, self.num_inference_steps, self.guidance_scale)[0]

    def possible(self, limits: Limits) -> Self:
        """Return these settings.

        Raises:
            InputError: the host would not make even one such picture.
        """
        if self.num_inference_steps > limits.max_steps:
            raise InputError(f"this host takes at most {limits.max_steps} steps a picture; lower --search-steps")
        if self.forwards > limits.max_forwards:
            raise InputError(f"this host takes at most {limits.max_forwards} forwards a request; lower --search-steps")
        if self.size**2 > limits.max_image_pixels:
            raise InputError(f"this host makes at most {limits.max_image_pixels:,} pixels; lower --search-size")
        return self

    def within(self, limits: Limits) -> Limits:
        """Return a host's limits on a request, counted in pictures."""
        most = max(1, min(limits.max_images, limits.max_forwards // self.forwards))
        return limits.model_copy(update={"max_forwards": most, "max_samples": most})


def cost_of_bank(candidates: int, samples: int, pictures: PictureSettings, card: ModelCard) -> Cost:
    """Return the exact cost of scoring candidates on a bank of `samples` pictures each."""
    return cost_of_images(candidates * samples, pictures.num_inference_steps, pictures.guidance_scale, card.prices)


@dataclass(frozen=True)
class ImageEvaluator:
    """Asks one endpoint for pictures and scores them here; `spent` counts what the host charged."""

    ranked: ClassVar[bool] = False

    endpoint: Endpoint
    card: ModelCard
    placeholder_token: str
    prompts: Sequence[str]
    pictures: PictureSettings
    scorer: Scorer
    spent: Spent = field(default_factory=Spent)

    @property
    def objective(self) -> ObjectiveName:
        """What is asked of the host."""
        return "images"

    def bank(self, purpose: Purpose, size: int, rng: np.random.Generator) -> list[ImageSample]:
        """Draw a bank: prompts spread evenly, as many as one request may hold, and a fresh seed a picture."""
        del purpose
        some = rng.permutation(len(self.prompts))[: self.card.limits.max_prompts]
        prompts = some[evenly(len(some), size, rng)]
        return [ImageSample(int(p), int(s)) for p, s in zip(prompts, rng.integers(2**48, size=size), strict=True)]

    def scores(self, embeddings: Embedding, bank: Sequence[ImageSample], label: str) -> Scores:
        """Score candidates, encoder -> (n, T, D), all on one bank.

        Raises:
            ScorerError: the scorer failed, or did not return one finite number a picture.
        """
        count = next(iter(embeddings.values())).shape[0]
        blocks = pack(count, len(bank), self.pictures.within(self.card.limits))
        limit = self.card.limits.max_concurrency
        replies = ask_blocks(blocks, lambda b, booked: self._ask(embeddings, bank, b, booked), label, limit, self.spent)
        losses = self._judged(self._decoded(blocks, replies, count, len(bank)), bank)
        return Scores(fitness_of(losses), losses)

    def _ask(self, embeddings: Embedding, bank: Sequence[ImageSample], block: Block, label: str) -> ImagesReply:
        samples = bank[block.from_sample : block.to_sample]
        used = sorted({s.prompt for s in samples})
        own_size = self.pictures.size == self.card.resolution
        request = ImagesRequest(
            placeholder_token=self.placeholder_token,
            embeddings={name: encode_tensor(value[block.first : block.last]) for name, value in embeddings.items()},
            prompts=[self.prompts[i] for i in used],
            items=[
                ImageItem(candidate=c, prompt=used.index(s.prompt), seed=s.seed)
                for c in range(block.last - block.first)
                for s in samples
            ],
            num_inference_steps=self.pictures.num_inference_steps,
            guidance_scale=self.pictures.guidance_scale,
            height=None if own_size else self.pictures.size,
            width=None if own_size else self.pictures.size,
        )
        with placeholder_told(self.placeholder_token):
            return self.endpoint.images(request, label=label)

    def _decoded(
        self, blocks: Sequence[Block], replies: Sequence[ImagesReply], count: int, samples: int
    ) -> list[list[Image.Image | None]]:
        """Pictures by candidate and sample from the replies of all blocks, None where the host rejected one."""
        table: list[list[Image.Image | None]] = [[None] * samples for _ in range(count)]
        size = (self.pictures.size, self.pictures.size)
        for block, reply in zip(blocks, replies, strict=True):
            places = [(c, s) for c in range(block.first, block.last) for s in range(block.from_sample, block.to_sample)]
            for (candidate, sample), picture in zip(places, reply.images, strict=True):
                if picture is not None:
                    table[candidate][sample] = decode_png(picture, size, self.card.limits)
        return table

    def _judged(self, table: Sequence[Sequence[Image.Image | None]], bank: Sequence[ImageSample]) -> list[Array | None]:
        """Scores with the sign changed, (samples,) a candidate; all in one call, so that no packing changes them."""
        whole = [c for c, row in enumerate(table) if all(picture is not None for picture in row)]
        pictures = [picture for c in whole for picture in table[c] if picture is not None]
        prompts = [self.prompts[s.prompt] for s in bank]
        scores = checked_scores(self.scorer, pictures, prompts * len(whole)) if pictures else np.zeros(0)
        rows = dict(zip(whole, -scores.reshape(len(whole), len(bank)), strict=True))
        return [rows.get(c) for c in range(len(table))]
