"""Noticing a model that was swapped in silence."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.booked import BookedEndpoint
from blackbox_ti.budget import Caps
from blackbox_ti.canary import Canary, rivals
from blackbox_ti.canary_plan import RIVALS
from blackbox_ti.endpoint import Endpoint
from blackbox_ti.evaluation import LossEvaluator
from blackbox_ti.inversion import InversionResult, invert
from blackbox_ti.ledger import Ledger, RunIdentity
from blackbox_ti.progress import Progress
from blackbox_ti.settings import InversionSettings
from blackbox_ti.wire import ModelCard, Sample
from tests.fake_host import FakeHost, fake_endpoint, png

PICTURES = [Image.new("RGB", (8, 8), (200, 30, 30))]
SETTINGS = InversionSettings(max_forwards=1200, dimension=6, initializer_token="dog", seed=5, canary_every=3)


class SwappedHost(FakeHost):
    """A host whose model becomes another one, under the same name, after so many charged calls."""

    swap_after = 10**9
    wobble = 0.0

    def _losses(self, body: bytes) -> tuple[object, tuple[int, int], tuple[int, int]]:  # type: ignore[override]
        if len(self.receipts) == self.swap_after:
            self.target = self.target + np.float32(0.2)
        return super()._losses(body)

    def loss(self, embedding: NDArray[np.float32], sample: Sample) -> float:
        """Return the loss, a little off, and otherwise each time."""
        return super().loss(embedding, sample) * (1 + self.wobble * math.sin(len(self.receipts)))


def _run(host: FakeHost, **options: object) -> InversionResult:
    endpoint = fake_endpoint(host)
    try:
        return invert(endpoint, PICTURES, SETTINGS, **options)  # type: ignore[arg-type]
    finally:
        endpoint.close()


def _canary(host: FakeHost, endpoint: Endpoint | None = None) -> Canary:
    asked = endpoint or fake_endpoint(host)
    card = asked.describe()
    concept = asked.register_concept([png()])
    evaluator = LossEvaluator(asked, card, concept, "<sks>", ["a photo of <sks>"])
    rng = np.random.default_rng(3)
    start = {"text": host.table[:1]}
    candidates = rivals(start, card, rng) if card.reply_mode == "rank" else {"text": host.table[None, :1]}
    return Canary(evaluator, candidates, evaluator.bank("race", 4, rng), asked.describe)


@pytest.mark.parametrize("mode", ["exact", "rounded", "rank"])
def test_a_model_swapped_in_silence_is_noticed_once(mode: str) -> None:
    """Fingerprint and card stay as they were; the answers do not, in any reply mode."""
    host = FakeHost(reply_mode=mode)
    canary = _canary(host)
    canary.open()
    assert not canary.check(1)
    host.target = -3 * host.target
    assert canary.check(2)
    assert not canary.check(3)
    assert canary.changes == 1


def test_another_fingerprint_is_a_change_though_the_answers_stay() -> None:
    """The card is asked afresh each time."""
    host = FakeHost()
    canary = _canary(host)
    canary.open()
    host.fingerprint = hashlib.sha256(b"another").hexdigest()
    assert canary.check(1)
    assert canary.last_drift == 0.0
    assert not canary.check(2)


def test_the_books_refusal_of_another_model_counts_as_a_change(tmp_path: Path) -> None:
    """A run's ledger refuses a card with another fingerprint; the canary tells instead of ending the run."""
    host = FakeHost()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.begin(RunIdentity(endpoint="x", settings={}, pictures=[]), Caps())
        canary = _canary(host, BookedEndpoint(fake_endpoint(host), ledger))
        canary.open()
        host.fingerprint = hashlib.sha256(b"another").hexdigest()
        assert canary.check(1)
        assert not canary.check(2)


def test_a_host_that_wobbles_by_itself_is_no_swapped_host() -> None:
    """The first answer is asked for twice: what differs there is the host's own arithmetic."""
    host = SwappedHost()
    host.wobble = 1e-3
    canary = _canary(host)
    canary.open()
    for generation in range(1, 4):
        assert not canary.check(generation)
    host.target = -3 * host.target
    assert canary.check(4)


def test_a_run_on_a_steady_host_says_so_and_stays_within_its_plan() -> None:
    """No change is found where there is none, and the plan's cost, canary and all, is what the host charged."""
    host = FakeHost()
    result = _run(host)
    assert result.host_changed == 0
    assert result.plan.canary.asks(result.plan.generations) > 3
    assert result.forwards == host.forwards == result.plan.total
    assert result.plan.cost(result.card).forwards == host.forwards


def test_a_run_whose_host_is_swapped_tells_in_progress_and_result() -> None:
    """The search goes on; the warning stays."""
    host = SwappedHost()
    host.swap_after = 12
    told: list[Progress] = []
    result = _run(host, on_progress=told.append)
    assert result.host_changed == 1
    assert [p.host_changed for p in told] == sorted(p.host_changed for p in told)
    assert told[0].host_changed == 0
    assert told[-1].host_changed == 1


def test_a_ranking_host_is_asked_about_several_words() -> None:
    """One candidate has no order."""
    host = FakeHost(reply_mode="rank")
    result = _run(host)
    assert result.plan.canary.candidates == RIVALS
    assert result.host_changed == 0
    assert host.forwards <= SETTINGS.max_forwards


def test_the_canary_changes_nothing_but_the_number_of_generations() -> None:
    """The search draws the same candidates and banks with and without it."""
    with_it = _run(FakeHost())
    without = SETTINGS.model_copy(update={"canary_every": 0, "max_forwards": 1200 - with_it.plan.canary_cost})
    endpoint = fake_endpoint(FakeHost())
    plain = invert(endpoint, PICTURES, without)
    endpoint.close()
    assert plain.plan.generations == with_it.plan.generations
    assert np.array_equal(plain.embedding["text"], with_it.embedding["text"])


def test_a_resumed_run_asks_the_canary_nothing_twice(tmp_path: Path) -> None:
    """Replayed from the ledger, the run ends in the same bits, finds the same changes, and costs nothing more."""

    def run(host: FakeHost) -> InversionResult:
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            endpoint = BookedEndpoint(fake_endpoint(host, on_attempt=ledger.record_attempt), ledger)
            ledger.begin(RunIdentity(endpoint="x", settings={}, pictures=[]), Caps(forwards=1200))
            return invert(endpoint, PICTURES, SETTINGS, keep_concept=True)

    host = SwappedHost()
    host.swap_after = 12
    first, spent = run(host), host.forwards
    again = run(host)
    assert host.forwards == spent
    assert first.host_changed == again.host_changed == 1
    assert np.array_equal(first.embedding["text"], again.embedding["text"])


def test_rivals_are_as_far_off_as_words_are_long() -> None:
    """Fixed by the generator, one distance for all."""
    card: ModelCard = FakeHost().card
    start = {"text": np.zeros((2, 8), np.float32)}
    found = rivals(start, card, np.random.default_rng(1))["text"]
    assert found.shape == (RIVALS, 2, 8)
    assert np.allclose(np.linalg.norm(found, axis=-1), card.encoders[0].norm_mean, rtol=1e-5)
    assert np.array_equal(found, rivals(start, card, np.random.default_rng(1))["text"])
