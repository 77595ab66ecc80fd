"""Packing: each item once, in order, within limits."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.batching import Block, evaluate_blocks, pack
from blackbox_ti.errors import InputError
from blackbox_ti.wire import Limits


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 20), st.integers(1, 20), st.integers(1, 200))
def test_packing_covers_each_item_once_in_order_within_limits(
    candidates: int, samples: int, max_candidates: int, max_samples: int, max_forwards: int
) -> None:
    """Whatever the limits, the blocks tile the table."""
    limits = Limits(max_candidates=max_candidates, max_samples=max_samples, max_forwards=max_forwards)
    blocks = pack(candidates, samples, limits)
    covered = [(c, s) for b in blocks for c in range(b.first, b.last) for s in range(b.from_sample, b.to_sample)]
    assert sorted(covered) == [(c, s) for c in range(candidates) for s in range(samples)]
    assert blocks == sorted(blocks, key=lambda b: (b.first, b.from_sample))
    for b in blocks:
        height, width = b.last - b.first, b.to_sample - b.from_sample
        assert height <= max_candidates
        assert width <= max_samples
        assert height * width <= max_forwards


def test_nothing_to_pack_is_an_error() -> None:
    """An empty request is never made."""
    with pytest.raises(InputError):
        pack(0, 3, Limits())


def test_results_keep_the_order_of_the_blocks() -> None:
    """Whoever finishes first, the answers are the blocks'."""
    blocks = [Block(i, i + 1, 0, 1) for i in range(12)]
    gate = threading.Barrier(4)

    def evaluate(block: Block) -> int:
        if block.first < 4:
            gate.wait(timeout=10)
        return block.first

    assert evaluate_blocks(blocks, evaluate, 4) == list(range(12))


def test_no_more_than_the_allowed_calls_run_at_once() -> None:
    """The bound holds, and is reached."""
    running, most, lock = 0, 0, threading.Lock()
    reached = threading.Event()

    def evaluate(block: Block) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 3:
                reached.set()
        reached.wait(timeout=10)
        with lock:
            running -= 1

    evaluate_blocks([Block(i, i + 1, 0, 1) for i in range(9)], evaluate, 3)
    assert most == 3


def test_an_error_comes_out() -> None:
    """A failed call fails the evaluation."""

    def evaluate(block: Block) -> int:
        if block.first == 2:
            raise InputError("no")
        return block.first

    with pytest.raises(InputError):
        evaluate_blocks([Block(i, i + 1, 0, 1) for i in range(5)], evaluate, 2)
