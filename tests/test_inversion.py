"""The main path on a host without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blackbox_ti.embedding import save_embedding
from blackbox_ti.errors import BudgetSpentError, InputError, PlaceholderError
from blackbox_ti.inversion import InversionResult, StopReason, invert
from blackbox_ti.progress import Progress
from blackbox_ti.settings import InversionSettings
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import LossReply, LossRequest, decode_tensor
from tests.fake_host import FakeHost, fake_endpoint

PICTURES = [Image.new("RGB", (8, 8), (200, 30, 30)), Image.new("RGB", (8, 8), (30, 200, 30))]
SMALL = InversionSettings(max_forwards=1200, dimension=6, sigma=1.0, initializer_token="dog", seed=5)


def _invert(host: FakeHost, settings: InversionSettings = SMALL, **options: object) -> InversionResult:
    endpoint = fake_endpoint(host)
    try:
        return invert(endpoint, PICTURES, settings, **options)  # type: ignore[arg-type]
    finally:
        endpoint.close()


def _distance(host: FakeHost, embedding: Embedding) -> float:
    return float(np.mean((embedding["text"][0] - host.target) ** 2))


def test_the_search_comes_near_the_target_and_says_what_it_cost() -> None:
    """The answer is nearer than the start, and its price is what the host charged."""
    host = FakeHost()
    result = _invert(host)
    assert _distance(host, result.embedding) < 0.5 * _distance(host, result.initial_embedding)
    assert result.heldout_loss_after is not None
    assert result.heldout_loss_before is not None
    assert result.heldout_loss_after < result.heldout_loss_before
    assert result.forwards == host.forwards <= SMALL.max_forwards
    assert result.queries == sum(r.queries for r in host.receipts)


def test_the_same_seed_learns_the_same_word_bit_for_bit() -> None:
    """Nothing but the seed and the host's answers decides."""
    first, again = _invert(FakeHost()), _invert(FakeHost())
    assert np.array_equal(first.embedding["text"], again.embedding["text"])
    other = _invert(FakeHost(), SMALL.model_copy(update={"seed": 6}))
    assert not np.array_equal(first.embedding["text"], other.embedding["text"])


def test_the_concept_is_removed_unless_kept() -> None:
    """The user's pictures do not stay on the host by default."""
    host = FakeHost()
    _invert(host)
    assert not host.concepts
    _invert(host, keep_concept=True)
    assert len(host.concepts) == 1


class _Watched:
    """An endpoint that notes the banks asked, and may fail at a given generation."""

    def __init__(self, host: FakeHost, fail_at: str = "", error: BaseException | None = None) -> None:
        self._endpoint = fake_endpoint(host)
        self.asked: list[tuple[str, LossRequest]] = []
        self._fail_at, self._error = fail_at, error

    def __getattr__(self, name: str) -> object:
        return getattr(self._endpoint, name)

    def losses(self, request: LossRequest, *, label: str, key: str | None = None) -> LossReply:
        self.asked.append((label, request))
        if label == self._fail_at and self._error:
            raise self._error
        return self._endpoint.losses(request, label=label, key=key)


def test_a_generation_is_scored_on_one_bank_and_the_next_on_another() -> None:
    """Common random numbers within, fresh ones between; the judge's bank is the search's never."""
    watched = _Watched(FakeHost())
    invert(watched, PICTURES, SMALL)  # type: ignore[arg-type]
    banks = {label: tuple(s.seed for s in r.samples) for label, r in watched.asked}
    search = [b for label, b in banks.items() if label.startswith("search")]
    judged = {b for label, b in banks.items() if label.startswith("heldout") and label[8:].isdigit()}
    reported = {banks["heldout/before"], banks["heldout/after"]}
    assert len(set(search)) == len(search) > 3
    assert len(judged) == len(reported) == 1
    seeds = [set(s) for s in (sum(map(list, search), []), next(iter(judged)), next(iter(reported)))]  # noqa: RUF017
    assert not seeds[0] & seeds[1]
    assert not seeds[0] & seeds[2]
    assert not seeds[1] & seeds[2]
    assert len([label for label, _ in watched.asked]) == len(banks)


@pytest.mark.parametrize(("error", "reason"), [
    (KeyboardInterrupt(), StopReason.INTERRUPTED), (BudgetSpentError("no more"), StopReason.BUDGET_SPENT),
])  # fmt: skip
def test_an_early_end_keeps_the_best_so_far(error: BaseException, reason: StopReason) -> None:
    """Ctrl-C or a cap ends the search with an answer no worse than the start."""
    host = FakeHost()
    result = invert(_Watched(host, "search/9", error), PICTURES, SMALL)  # type: ignore[arg-type]
    assert result.stop_reason is reason
    assert max(p.generation for p in result.history) == 8
    assert not host.concepts


def test_nothing_more_to_learn_ends_the_search() -> None:
    """When the held-out bank sees no gain several times running, the rest is not spent."""
    host = FakeHost()
    host.target = host.table[1].copy()  # the start is the minimum
    settings = SMALL.model_copy(update={"patience": 2, "max_forwards": 5000, "sigma": 1e-6})
    result = _invert(host, settings)
    assert result.stop_reason is StopReason.NOTHING_MORE_LEARNED
    assert result.forwards < 2500
    assert np.array_equal(result.embedding["text"], result.initial_embedding["text"])


@pytest.mark.parametrize("mode", ["rank", "rounded"])
def test_every_reply_mode_works(mode: str) -> None:
    """A host that tells only ranks still teaches a word; losses are then not reported."""
    host = FakeHost(reply_mode=mode)
    result = _invert(host)
    assert _distance(host, result.embedding) < _distance(host, result.initial_embedding)
    assert (result.heldout_loss_after is None) == (mode == "rank")
    assert result.forwards <= SMALL.max_forwards


def test_several_vectors_make_one_word() -> None:
    """The word has as many vectors as asked."""
    result = _invert(FakeHost(), SMALL.model_copy(update={"num_vectors": 3}))
    assert result.embedding["text"].shape == (3, 8)


def test_a_placeholder_that_is_a_token_is_refused_before_anything_is_charged() -> None:
    """The vocabulary tells, and nothing was sent."""
    host = FakeHost()
    with pytest.raises(PlaceholderError, match="already a token"):
        _invert(host, SMALL.model_copy(update={"placeholder_token": "cat"}))
    assert host.forwards == 0
    assert not host.concepts


def test_without_a_vocabulary_a_word_cannot_be_looked_up(tmp_path: Path) -> None:
    """The error tells the ways there are; a file is one."""
    host = FakeHost(vocabulary=False)
    with pytest.raises(InputError, match="--initial-embedding"):
        _invert(host)
    path = save_embedding(tmp_path, "<x>", {"text": host.table[:1]}, {})
    settings = SMALL.model_copy(update={"initializer_token": "auto"})
    assert "learned_embeds" in _invert(host, settings, initial_embedding=path).start
    assert "origin" in _invert(host, settings).start


def test_progress_is_told_each_generation() -> None:
    """Generations, forwards and losses come in order."""
    told: list[Progress] = []
    plans: list[object] = []
    result = _invert(FakeHost(), on_progress=told.append, on_plan=lambda *p: plans.append(p))
    assert [p.generation for p in told] == list(range(1, result.plan.generations + 1))
    assert [p.forwards for p in told] == sorted(p.forwards for p in told)
    assert len(plans) == 1


def _search_banks(settings: InversionSettings) -> dict[str, tuple[int, ...]]:
    watched = _Watched(FakeHost())
    invert(watched, PICTURES, settings)  # type: ignore[arg-type]
    return {label: tuple(s.seed for s in r.samples) for label, r in watched.asked if label.startswith("search")}


def test_without_common_noise_every_candidate_has_a_bank_of_its_own() -> None:
    """As the reference code compares them: no two banks of a run share a seed, and the cost is the same."""
    apart = SMALL.model_copy(update={"common_noise": False})
    banks = _search_banks(apart)
    seeds = [seed for bank in banks.values() for seed in bank]
    assert len(set(seeds)) == len(seeds)
    host, together = FakeHost(), FakeHost()
    result = _invert(host, apart)
    _invert(together)
    assert host.forwards == together.forwards == result.plan.cost(host.card).forwards
    assert len(banks) == result.plan.generations * result.plan.popsize


def test_a_bank_is_kept_as_long_as_asked() -> None:
    """Three generations share one, then it rotates."""
    banks = list(_search_banks(SMALL.model_copy(update={"rotate_every": 3})).values())
    assert [len(set(banks[i : i + 3])) for i in range(0, len(banks), 3)] == [1] * -(-len(banks) // 3)
    assert len(set(banks)) == -(-len(banks) // 3)


def test_a_host_that_ranks_needs_common_noise() -> None:
    """The ranks of candidates alone say nothing."""
    with pytest.raises(InputError, match="--no-common-noise"):
        _invert(FakeHost(reply_mode="rank"), SMALL.model_copy(update={"common_noise": False}))


def test_the_luckiest_answer_is_the_best_of_the_last_generation() -> None:
    """Whatever came before, and however lucky it was."""
    watched = _Watched(FakeHost())
    settings = SMALL.model_copy(update={"answer": "luckiest"})
    result = invert(watched, PICTURES, settings)  # type: ignore[arg-type]
    last = f"search/{result.plan.generations}"
    (request,) = [r for label, r in watched.asked if label == last]
    host, candidates = FakeHost(), decode_tensor(request.embeddings["text"])
    losses = [np.mean([host.loss(e, s) for s in request.samples]) for e in candidates]
    assert np.array_equal(result.embedding["text"], candidates[int(np.argmin(losses))])
    assert not [label for label, _ in watched.asked if label.startswith("heldout/") and label[8:].isdigit()]


@pytest.mark.parametrize("changed", [
    {"answer": "mean"}, {"preset": "paper"}, {"num_vectors": 2, "learnable_property": "style"}, {"mirrored": True},
])  # fmt: skip
def test_every_arrangement_learns_the_same_word_from_the_same_seed(changed: dict[str, object]) -> None:
    """Bit for bit, and it is not the word the search began with."""
    settings = InversionSettings(**{"max_forwards": 1500, "initializer_token": "dog", "seed": 3, **changed})  # type: ignore[arg-type]
    first, again = _invert(FakeHost(), settings), _invert(FakeHost(), settings)
    assert np.array_equal(first.embedding["text"], again.embedding["text"])
    assert not np.array_equal(first.embedding["text"], first.initial_embedding["text"])


def test_a_style_is_asked_for_as_a_style() -> None:
    """Its prompts say so."""
    watched = _Watched(FakeHost())
    invert(watched, PICTURES, SMALL.model_copy(update={"learnable_property": "style"}))  # type: ignore[arg-type]
    prompts = {p for _, r in watched.asked for p in r.prompts}
    assert prompts
    assert all("in the style of <sks>" in p for p in prompts)
