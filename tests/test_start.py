"""Where a search starts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import InputError
from blackbox_ti.evaluation import LossEvaluator
from blackbox_ti.initialise import Start
from blackbox_ti.objective import BankSettings, draw_bank
from blackbox_ti.plan import Race
from blackbox_ti.settings import InversionSettings
from blackbox_ti.start import choose_start, shortlist
from blackbox_ti.wire import Sample
from tests.fake_host import FakeHost, fake_endpoint, png


def _vocabularies(host: FakeHost) -> dict[str, Vocabulary]:
    return {"text": Vocabulary(list(host.words), host.table)}


def test_a_named_word_starts_alone() -> None:
    """No race where the user decided."""
    host = FakeHost()
    settings = InversionSettings(initializer_token="dog", num_vectors=2)
    (start,) = shortlist(settings, host.card, _vocabularies(host), None, None)
    assert start.embedding["text"].shape == (2, 8)


def test_without_clip_a_plain_word_is_the_start() -> None:
    """The vocabulary's plainest word, or an error that says what to give."""
    host = FakeHost()
    (start,) = shortlist(InversionSettings(), host.card, _vocabularies(host), None, None)
    assert start.description == "the word 'photo'"
    odd = {"text": Vocabulary(["zyx", "wvu"], host.table[:2])}
    with pytest.raises(InputError, match="--initializer-token"):
        shortlist(InversionSettings(), host.card, odd, None, None)


class _Races:
    """Races between words that are so far from the host's target; `extended` are those of every winner."""

    def __init__(self, *extended: float) -> None:
        self.host = FakeHost()
        endpoint = fake_endpoint(self.host)
        self.evaluator = LossEvaluator(
            endpoint, endpoint.describe(), endpoint.register_concept([png()]), "<sks>", ["a <sks>"]
        )
        self.extended, self.holders = self.starts(*extended), list[str]()
        self.rounds = list[int]()

    def starts(self, *distances: float) -> list[Start]:
        return [Start({"text": (self.host.target + d)[None].astype(np.float32)}, str(d)) for d in distances]

    def winner(self, starts: Sequence[Start], races: Sequence[Race]) -> str:
        return choose_start(self.evaluator, starts, races, self._bank, self._extend, self.rounds.append).description

    def _bank(self, size: int, turn: int) -> list[Sample]:
        return draw_bank(BankSettings(1, 1), size, np.random.default_rng(turn))

    def _extend(self, holder: Start) -> list[Start]:
        self.holders.append(holder.description)
        return self.extended


def test_the_race_is_won_by_the_lowest_loss_on_one_bank() -> None:
    """All are asked the same questions; one alone is not asked."""
    races = _Races()
    starts = races.starts(0.9, 0.1, 0.5)
    assert races.winner(starts, [((3, 8),)]) == "0.1"
    assert races.host.forwards == 24
    assert races.winner(starts[:1], []) == "0.9"
    assert races.host.forwards == 24
    assert races.winner(starts, [((3, 8), (2, 16))]) == "0.1"
    assert races.host.forwards == 24 + 24 + 32
    assert races.holders == []


@pytest.mark.parametrize(("extended", "best"), [((0.7, 0.3, 0.05, 0.6), "0.05"), ((0.7, 0.3, 0.2, 0.6), "0.1")])
def test_a_winner_is_beaten_by_what_it_is_extended_to_or_stays(extended: tuple[float, ...], best: str) -> None:
    """It meets the best of its extensions on the last bank, and the winner of that race is extended in turn."""
    races = _Races(*extended)
    further = ((4, 8), (2, 16))
    assert races.winner(races.starts(0.9, 0.1, 0.5), [((3, 8),), further, further]) == best
    assert races.holders == ["0.1", best]
    assert races.rounds == [1, 2, 3, 4, 5]
    assert races.host.forwards == 24 + 2 * (4 * 8 + 2 * 16)


def test_a_winner_meets_extensions_that_race_in_one_round() -> None:
    """Where there is no round to leave out, it takes the place of the last."""
    races = _Races(0.7, 0.3, 0.05)
    assert races.winner(races.starts(0.2, 0.1), [((2, 8),), ((3, 8),)]) == "0.1"
    assert races.host.forwards == 16 + 24
