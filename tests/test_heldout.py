"""The judge."""

from __future__ import annotations

import numpy as np

from blackbox_ti.evaluation import LossEvaluator
from blackbox_ti.heldout import Judge
from blackbox_ti.objective import BankSettings, draw_bank
from blackbox_ti.wire import Sample
from tests.fake_host import FakeHost, fake_endpoint, png

BANK = draw_bank(BankSettings(1, 1), 6, np.random.default_rng(0))


def _judge(host: FakeHost) -> Judge[Sample]:
    endpoint = fake_endpoint(host)
    evaluator = LossEvaluator(endpoint, endpoint.describe(), endpoint.register_concept([png()]), "<sks>", ["a <sks>"])
    return Judge(evaluator, BANK, {"text": host.table[1:2]})


def _near(host: FakeHost, distance: float) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {"text": (host.target + distance)[None].astype(np.float32)}


def test_the_best_is_kept_and_failures_in_a_row_are_counted() -> None:
    """A worse embedding never replaces a better one; a success ends the row."""
    host = FakeHost()
    judge = _judge(host)
    judge.open()
    assert judge.consider(_near(host, 0.05), 1)
    assert not judge.consider(_near(host, 0.5), 2)
    assert not judge.consider(_near(host, 0.6), 3)
    assert judge.failures == 2
    best = _near(host, 0.01)
    assert judge.consider(best, 4)
    assert judge.failures == 0
    assert np.array_equal(judge.best["text"], best["text"])


def test_a_host_that_only_ranks_is_asked_about_both() -> None:
    """The rivals go into one request, and the verdict is the same."""
    host = FakeHost(reply_mode="rank")
    judge = _judge(host)
    judge.open()
    assert host.forwards == 0
    assert judge.consider(_near(host, 0.05), 1)
    assert not judge.consider(_near(host, 0.5), 2)
    assert judge.best_loss is None
    assert host.forwards == 2 * 2 * len(BANK)


def test_a_rejected_embedding_is_never_the_best() -> None:
    """Out of bounds is not better."""
    host = FakeHost(max_norm=5.0)
    judge = _judge(host)
    judge.open()
    assert not judge.consider(_near(host, 100.0), 1)
