"""The judge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blackbox_ti.callable_endpoint import CallableEndpoint
from blackbox_ti.evaluation import LossEvaluator
from blackbox_ti.heldout import Judge
from blackbox_ti.objective import BankSettings, draw_bank
from blackbox_ti.wire import LossRequest, Sample
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


def test_without_a_bank_the_last_one_considered_is_kept() -> None:
    """Nothing is asked of the host, so nothing can be said against it."""
    host = FakeHost()
    endpoint = fake_endpoint(host)
    evaluator = LossEvaluator(endpoint, endpoint.describe(), endpoint.register_concept([png()]), "<sks>", ["a <sks>"])
    judge = Judge[Sample](evaluator, [], {"text": host.table[1:2]})
    judge.open()
    for distance in (0.01, 0.5):
        assert judge.consider(_near(host, distance), 1)
        assert np.array_equal(judge.best["text"], _near(host, distance)["text"])
    assert endpoint.usage().forwards == 0


def _told(rows: Sequence[Sequence[float]]) -> Judge[Sample]:
    """A judge whose host gives these losses, one row a question."""
    answers = iter(rows)

    def losses(_embeddings: object, request: LossRequest, _references: object) -> list[Sequence[float]]:
        return [next(answers)[: len(request.samples)]]

    endpoint = CallableEndpoint(encoders={"text": 8}, losses=losses)
    concept = endpoint.register_concept([png()])
    evaluator = LossEvaluator(endpoint, endpoint.describe(), concept, "<sks>", ["a <sks>"])
    return Judge(evaluator, BANK, {"text": np.zeros((1, 8), np.float32)})


def test_a_rival_has_to_win_by_more_than_luck() -> None:
    """A mean that is lower by less than a standard error of the paired difference is no better."""
    start = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    luck = [0.5, 2.4, 2.5, 4.4, 4.5, 6.4]  # 0.05 lower, give or take 0.2
    surely = [0.9, 1.8, 2.9, 3.8, 4.9, 5.8]
    rival = {"text": np.ones((1, 8), np.float32)}
    judge = _told([start, luck, surely])
    judge.open()
    assert not judge.consider(rival, 1)
    assert judge.failures == 1
    assert judge.consider(rival, 2)
    assert judge.best_loss is not None
    assert np.isclose(judge.best_loss, np.mean(surely))


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
