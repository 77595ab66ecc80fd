"""Candidates to numbers: one bank, one fitness a candidate, whatever the host's limits and reply mode.

`Evaluator` is what the search knows; `LossEvaluator` asks a host for losses, and `blackbox_ti.image_evaluation` scores
the pictures it makes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.batching import Block, evaluate_blocks, pack
from blackbox_ti.endpoint import Endpoint
from blackbox_ti.errors import EndpointError, InputError, PlaceholderError, RejectedError
from blackbox_ti.objective import BankSettings, draw_bank, fitness_of
from blackbox_ti.problems import has_code
from blackbox_ti.subspace import Embedding
from blackbox_ti.timesteps import Focus, FocusedBank
from blackbox_ti.wire import (
    ImagesReply,
    LossReply,
    LossRequest,
    ModelCard,
    ProblemCode,
    Sample,
    decode_tensor,
    encode_tensor,
)

__all__ = [
    "Evaluator",
    "LossEvaluator",
    "ObjectiveName",
    "Purpose",
    "Scores",
    "Spent",
    "ask_blocks",
    "placeholder_told",
]

Array = NDArray[np.float64]
ObjectiveName = Literal["loss", "images"]
Purpose = Literal["race", "search", "heldout", "report"]
Q = TypeVar("Q")
R = TypeVar("R", LossReply, ImagesReply)


@dataclass(frozen=True)
class Scores:
    """Fitness (n,), smaller is better, and the losses behind it: an array (samples,) a candidate, None if rejected.

    Where the host tells only the order of candidates, `losses` is None and fitness is each candidate's rank. Of
    pictures, losses are their scores with the sign changed.
    """

    fitness: Array
    losses: Sequence[Array | None] | None

    def row(self, candidate: int) -> Array | None:
        """The losses (samples,) of a candidate, or None where they are not known."""
        return None if self.losses is None else self.losses[candidate]

    def mean(self, candidate: int) -> float | None:
        """The mean loss of a candidate, or None where it is not known."""
        row = self.row(candidate)
        return None if row is None else float(row.mean())

    @property
    def best(self) -> float | None:
        """The lowest mean loss of a candidate, or None where none is known."""
        means = [mean for mean in map(self.mean, range(len(self.fitness))) if mean is not None]
        return min(means, default=None)


@dataclass
class Spent:
    """What an evaluator's questions cost so far."""

    forwards: int = 0
    queries: int = 0


class Evaluator(Protocol[Q]):
    """Scores candidates on banks of questions Q; the search, the judge and the race know nothing else of a host."""

    @property
    def objective(self) -> ObjectiveName:
        """What is asked of the host."""
        ...

    @property
    def ranked(self) -> bool:
        """Whether scores are ranks alone, which cannot be compared between calls."""
        ...

    @property
    def card(self) -> ModelCard:
        """The host's model card."""
        ...

    @property
    def spent(self) -> Spent:
        """What the host charged so far."""
        ...

    def bank(self, purpose: Purpose, size: int, rng: np.random.Generator) -> list[Q]:
        """Draw a bank of `size` questions."""
        ...

    def scores(self, embeddings: Embedding, bank: Sequence[Q], label: str) -> Scores:
        """Score candidates, encoder -> (n, T, D), all on one bank."""
        ...


@dataclass(frozen=True)
class LossEvaluator:
    """Asks one endpoint about one concept of `images` pictures; `spent` counts what the host charged.

    The search is asked timesteps between `t_min` and `t_max`, judgement all of them. Every prompt of a bank is encoded
    anew for every candidate, so a bank of the search uses `prompts_at_once`, and the banks rotate through all. With a
    `focus` search and judgement ask more often about the timesteps at which candidates differ, from the race on; what
    is reported is asked evenly.
    """

    endpoint: Endpoint
    card: ModelCard
    concept: str
    placeholder_token: str
    prompts: Sequence[str]
    spent: Spent = field(default_factory=Spent)
    images: int = 1
    t_min: float = 0.0
    t_max: float = 1.0
    prompts_at_once: int = 2
    focus: Focus | None = None

    @property
    def objective(self) -> ObjectiveName:
        """What is asked of the host."""
        return "loss"

    @property
    def ranked(self) -> bool:
        """Whether the host tells only the order of candidates."""
        return self.card.reply_mode == "rank"

    def bank(self, purpose: Purpose, size: int, rng: np.random.Generator) -> list[Sample]:
        """Draw the bank of one purpose."""
        prompts = len(self.prompts)
        settings = BankSettings(self.images, prompts)
        if purpose in ("race", "search"):
            settings = BankSettings(self.images, prompts, self.t_min, self.t_max, self.prompts_at_once)
        samples = draw_bank(settings, size, rng)
        if self.focus is None or purpose == "report":
            return samples
        return self.focus.bank(samples, settings.t_min, settings.t_max)

    def scores(self, embeddings: Embedding, bank: Sequence[Sample], label: str) -> Scores:
        """Score candidates, encoder -> (n, T, D), all on one bank."""
        count = next(iter(embeddings.values())).shape[0]
        blocks = pack(count, len(bank), self.card.limits)
        if self.ranked and len(blocks) > 1:
            raise InputError("this host ranks the candidates of one request; make --popsize x --samples fit its limits")
        limit = self.card.limits.max_concurrency
        replies = ask_blocks(blocks, lambda b, booked: self._ask(embeddings, bank, b, booked), label, limit, self.spent)
        if self.ranked:
            return Scores(_ranks(replies[0], count), None)
        losses = _assembled(blocks, replies, count, len(bank))
        if self.focus and isinstance(bank, FocusedBank):
            self.focus.learn(bank, losses)
            losses = [None if row is None else row * bank.weights for row in losses]
        return Scores(fitness_of(losses), losses)

    def _ask(self, embeddings: Embedding, bank: Sequence[Sample], block: Block, label: str) -> LossReply:
        samples = bank[block.from_sample : block.to_sample]
        used = sorted({s.prompt for s in samples})
        request = LossRequest(
            concept=self.concept,
            placeholder_token=self.placeholder_token,
            embeddings={name: encode_tensor(value[block.first : block.last]) for name, value in embeddings.items()},
            prompts=[self.prompts[i] for i in used],
            samples=[s.model_copy(update={"prompt": used.index(s.prompt)}) for s in samples],
        )
        with placeholder_told(self.placeholder_token):
            return self.endpoint.losses(request, label=label)


@contextlib.contextmanager
def placeholder_told(placeholder_token: str) -> Iterator[None]:
    """Turn a host's refusal of the placeholder into the error that a vocabulary would have given at the start."""
    try:
        yield
    except RejectedError as error:
        if has_code(error, {ProblemCode.PLACEHOLDER_TAKEN}):
            taken = f"'{placeholder_token}' is already a token of the model; choose another, like '<sks>'"
            raise PlaceholderError(taken) from error
        raise


def ask_blocks(
    blocks: Sequence[Block], ask: Callable[[Block, str], R], label: str, max_concurrency: int, spent: Spent
) -> list[R]:
    """Return the reply to each block, in order, and count in `spent` what the host charged for them.

    Each request has a label of its own, for the books to tell those made side by side apart on resume.
    """
    labels = {block: f"{label}/{i}" if i else label for i, block in enumerate(blocks)}
    replies = evaluate_blocks(blocks, lambda block: ask(block, labels[block]), max_concurrency)
    spent.forwards += sum(reply.charge.forwards for reply in replies)
    spent.queries += sum(reply.charge.queries for reply in replies)
    return replies


def _ranks(reply: LossReply, count: int) -> Array:
    fitness = np.full(count, float(count))
    fitness[list(reply.ranking or [])] = np.arange(len(reply.ranking or []))
    return fitness


def _assembled(blocks: Sequence[Block], replies: Sequence[LossReply], count: int, samples: int) -> list[Array | None]:
    """Losses by candidate from the replies of all blocks; a candidate rejected in one block is rejected."""
    table = np.full((count, samples), np.nan)
    for block, reply in zip(blocks, replies, strict=True):
        if reply.losses is None:
            raise EndpointError("the host's card promises losses, but its reply holds none; tell its operator")
        rows = [block.first + c for c in reply.candidates]
        table[rows, block.from_sample : block.to_sample] = decode_tensor(reply.losses)
    return [row if np.isfinite(row).all() else None for row in table]
