"""Candidates to numbers, whatever the host's limits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_ti.batching import Block, pack
from blackbox_ti.endpoint import Endpoint
from blackbox_ti.errors import InputError, PlaceholderError, RejectedError
from blackbox_ti.evaluation import LossEvaluator, Purpose, Scores, Spent, ask_blocks
from blackbox_ti.objective import BankSettings, draw_bank
from blackbox_ti.timesteps import Focus, FocusedBank
from blackbox_ti.wire import Charge, Limits, LossReply, LossRequest, Problem, Sample
from tests.fake_host import FakeHost, fake_endpoint, png

PROMPTS = ["a photo of <sks>", "a rendering of <sks>", "the <sks>"]
BANK = draw_bank(BankSettings(2, len(PROMPTS)), 7, np.random.default_rng(0))


def _evaluator(host: FakeHost, limits: Limits | None = None) -> LossEvaluator:
    endpoint = fake_endpoint(host)
    card = endpoint.describe()
    if limits is not None:
        card = card.model_copy(update={"limits": limits})
    return LossEvaluator(endpoint, card, endpoint.register_concept([png(), png((1, 2, 3))]), "<sks>", PROMPTS)


def _candidates(count: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {"text": np.random.default_rng(1).normal(0, 0.1, (count, 1, 8)).astype(np.float32)}


def test_the_best_of_a_generation_is_the_lowest_loss_that_is_known() -> None:
    """Rejected candidates have none, and a host that only ranks tells none."""
    rows = [np.array([0.3, 0.5]), None, np.array([0.1, 0.3])]
    assert Scores(np.array([0.4, 9.0, 0.2]), rows).best == pytest.approx(0.2)
    assert Scores(np.array([9.0]), [None]).best is None
    assert Scores(np.array([1.0, 0.0]), None).best is None


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 12), st.integers(1, 3))
def test_limits_change_the_requests_and_not_the_losses(
    candidates: int, samples: int, forwards: int, concurrency: int
) -> None:
    """However the work is cut, every number is the same; every part is booked under a label of its own."""
    whole = _evaluator(FakeHost()).scores(_candidates(5), BANK, "search/1")
    limits = Limits(max_candidates=candidates, max_samples=samples, max_forwards=forwards, max_concurrency=concurrency)
    host = FakeHost()
    parts = _evaluator(host, limits).scores(_candidates(5), BANK, "search/1")
    assert np.array_equal(whole.fitness, parts.fitness)
    assert host.forwards == 5 * len(BANK)


def test_what_was_spent_adds_up() -> None:
    """Forwards and queries are those the host charged."""
    host = FakeHost()
    evaluator = _evaluator(host)
    evaluator.scores(_candidates(3), BANK, "a")
    evaluator.scores(_candidates(2), BANK, "b")
    assert (evaluator.spent.forwards, evaluator.spent.queries) == (5 * len(BANK), 5)
    assert host.forwards == evaluator.spent.forwards


def test_banks_move_to_where_candidates_differ_except_for_the_reports() -> None:
    """Losses of a search teach the next banks their timesteps and count by weight; what is reported stays uniform."""
    plain = _evaluator(FakeHost())
    focused = dataclasses.replace(plain, focus=Focus())

    def bank(evaluator: LossEvaluator, purpose: Purpose, seed: int) -> list[Sample]:
        return evaluator.bank(purpose, 6, np.random.default_rng(seed))

    first = bank(focused, "search", 1)
    assert np.allclose([s.t for s in first], [s.t for s in bank(plain, "search", 1)])
    focused.scores(_candidates(4), first, "search/1")
    moved = bank(focused, "search", 2)
    assert not np.allclose([s.t for s in moved], [s.t for s in bank(plain, "search", 2)])
    assert bank(focused, "heldout", 2) != bank(plain, "heldout", 2)
    assert bank(focused, "report", 2) == bank(plain, "report", 2)
    assert isinstance(moved, FocusedBank)
    raw, weighed = plain.scores(_candidates(4), list(moved), "a"), focused.scores(_candidates(4), moved, "search/2")
    assert raw.losses is not None
    wanted = [float((row * moved.weights).mean()) for row in raw.losses if row is not None]
    assert np.allclose(weighed.fitness, wanted)


def test_requests_side_by_side_are_told_apart_and_counted_together() -> None:
    """The first has the label itself, the others a number behind it; replies come in the blocks' order."""
    blocks = pack(5, 1, Limits(max_candidates=2))
    asked: dict[str, Block] = {}

    def ask(block: Block, label: str) -> LossReply:
        asked[label] = block
        charge = Charge(forwards=10, queries=block.last - block.first, price_micros=0)
        return LossReply(candidates=[block.first], losses=None, charge=charge)

    spent = Spent(forwards=1, queries=1)
    replies = ask_blocks(blocks, ask, "search/3", 2, spent)
    assert asked == dict(zip(["search/3", "search/3/1", "search/3/2"], blocks, strict=True))
    assert [reply.candidates for reply in replies] == [[0], [2], [4]]
    assert (spent.forwards, spent.queries) == (31, 6)


def test_a_rejected_candidate_fails_alone() -> None:
    """Its neighbours keep their losses; it comes last."""
    candidates = _candidates(3)
    candidates["text"][1] *= 1e4
    scores = _evaluator(FakeHost(max_norm=10.0)).scores(candidates, BANK, "search/1")
    assert scores.losses is not None
    assert scores.losses[1] is None
    assert scores.mean(1) is None
    assert scores.mean(0) == pytest.approx(float(scores.fitness[0]))
    assert scores.fitness.argmax() == 1


def test_ranks_order_as_losses_do() -> None:
    """Rank mode tells the same order, and nothing else; candidates it rejects come last."""
    exact = _evaluator(FakeHost()).scores(_candidates(5), BANK, "x")
    ranked = _evaluator(FakeHost(reply_mode="rank")).scores(_candidates(5), BANK, "x")
    assert ranked.losses is None
    assert list(np.argsort(ranked.fitness)) == list(np.argsort(exact.fitness))


def test_a_generation_that_is_ranked_must_fit_one_request() -> None:
    """Ranks of two requests cannot be compared, and the error says what to change."""
    evaluator = _evaluator(FakeHost(reply_mode="rank"), Limits(max_candidates=2))
    with pytest.raises(InputError, match="--popsize"):
        evaluator.scores(_candidates(5), BANK, "x")


class _Refusing:
    def __init__(self, code: str) -> None:
        self.code = code

    def losses(self, request: LossRequest, *, label: str, key: str | None = None) -> LossReply:
        raise RejectedError("no", problem=Problem(status=422, code=self.code))


def test_a_taken_placeholder_found_out_by_the_host_is_told_as_one() -> None:
    """A host without a vocabulary still ends in the placeholder's error; other refusals stay what they are."""
    for code, kind in (("placeholder_taken", PlaceholderError), ("invalid_tensor", RejectedError)):
        endpoint: Endpoint = _Refusing(code)  # type: ignore[assignment]
        evaluator = LossEvaluator(endpoint, FakeHost().card, "c", "<sks>", PROMPTS)
        with pytest.raises(kind):
            evaluator.scores(_candidates(1), BANK, "x")
