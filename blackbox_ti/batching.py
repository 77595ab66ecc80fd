"""Packing candidates and samples into requests within the host's limits, and evaluating them concurrently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from blackbox_ti.errors import InputError
from blackbox_ti.wire import Limits

__all__ = ["Block", "evaluate_blocks", "pack"]

T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """One request's share: candidates [first, last) on samples [from_sample, to_sample)."""

    first: int
    last: int
    from_sample: int
    to_sample: int


def pack(candidates: int, samples: int, limits: Limits) -> list[Block]:
    """Return blocks that cover every (candidate, sample) once, in order, each within the host's limits.

    Raises:
        InputError: there is nothing to pack.
    """
    if candidates < 1 or samples < 1:
        raise InputError("a request needs at least one candidate and one sample")
    width = min(samples, limits.max_samples, limits.max_forwards)
    height = min(limits.max_candidates, max(1, limits.max_forwards // width))
    return [
        Block(first, min(first + height, candidates), start, min(start + width, samples))
        for first in range(0, candidates, height)
        for start in range(0, samples, width)
    ]


def evaluate_blocks(blocks: Sequence[Block], evaluate: Callable[[Block], T], max_concurrency: int) -> list[T]:
    """Return `evaluate(block)` for each block, in the blocks' order, at most `max_concurrency` at a time.

    The first error is raised once the calls under way have ended.
    """
    if len(blocks) == 1 or max_concurrency == 1:
        return [evaluate(block) for block in blocks]
    with ThreadPoolExecutor(max_workers=min(max_concurrency, len(blocks))) as pool:
        return list(pool.map(evaluate, blocks))
