"""Each check of a probe by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from blackbox_ti import doctor_checks as checks
from blackbox_ti.attempt import Attempt
from blackbox_ti.doctor_noise import Spread
from blackbox_ti.doctor_report import Status
from blackbox_ti.doctor_tls import TlsFacts
from blackbox_ti.endpoint import Guarantees
from blackbox_ti.errors import AuthError, ConnectError
from blackbox_ti.wire import Charge, Limits, LossReply, ModelCard, encode_tensor
from tests.fake_host import FakeHost

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALL = Guarantees()


def _answer(*losses: float, forwards: int = 2) -> LossReply:
    table = np.array([losses], np.float32)
    charge = Charge(forwards=forwards, queries=1, price_micros=0)
    return LossReply(candidates=[0], losses=encode_tensor(table), charge=charge)


def _attempt(
    *, status: int = 200, latency: float = 0.1, retry_after: float | None = None, replayed: bool = False
) -> Attempt:
    return Attempt(
        number=1, idempotency_key="k", method="POST", path="/", started_at=0.0, latency=latency, status=status,
        error=None, effect="done", bytes_up=1, bytes_down=1, request_id=None, retry_after=retry_after,
        replayed=replayed,
    )  # fmt: skip


def _raised(error: Exception) -> ModelCard:
    raise error


@pytest.mark.parametrize(("days", "status"), [(90, Status.OK), (13, Status.LIMIT)])
def test_a_certificate_about_to_end_is_a_limit(days: int, status: Status) -> None:
    """Two weeks are soon."""
    found = checks.tls(TlsFacts("TLSv1.3", NOW + timedelta(days=days)), NOW)
    assert found.status is status
    assert f"{days} days" in found.detail


def test_a_stranger_is_to_be_refused() -> None:
    """A refusal is right, an answer is a limit off this machine, no answer is no finding."""
    card = FakeHost().card
    assert checks.auth(lambda: _raised(AuthError("401")), loopback=False).status is Status.OK
    assert checks.auth(lambda: card, loopback=True).status is Status.OK
    assert checks.auth(lambda: card, loopback=False).status is Status.LIMIT
    assert checks.auth(lambda: _raised(ConnectError("gone")), loopback=False).status is Status.SKIPPED


def test_another_version_or_no_objective_is_bad() -> None:
    """The rest of the card is told all the same."""
    card = FakeHost().card
    assert {f.status for f in checks.card_findings(card)} == {Status.OK}
    other = card.model_copy(update={"protocol_version": "9", "objectives": []})
    assert [f.check for f in checks.card_findings(other) if f.status is Status.BAD] == ["protocol", "objectives"]


def test_sameness_is_of_bits_up_to_the_reply_modes_precision() -> None:
    """Equal bits are ok; within the precision is ok and told; beyond it is a limit."""
    card = FakeHost().card
    first = _answer(0.5, 0.25)
    assert "same bits" in checks.determinism(first, first, card).detail
    near = checks.determinism(first, _answer(0.5000002, 0.25), card)
    assert (near.status, near.data["drift"] > 0) == (Status.OK, True)
    assert checks.determinism(first, _answer(0.501, 0.25), card).status is Status.LIMIT
    rounded = card.model_copy(update={"reply_mode": "rounded", "reply_digits": 3})
    assert checks.determinism(first, _answer(0.501, 0.25), rounded).status is Status.OK


@pytest.mark.parametrize(
    ("attempts", "charged", "promised", "status"),
    [
        ([_attempt(replayed=True)], None, ALL, Status.OK),
        ([_attempt()], 2, ALL, Status.OK),
        ([_attempt()], 4, ALL, Status.BAD),
        ([_attempt()], None, ALL, Status.LIMIT),
        ([], None, Guarantees(idempotency=False), Status.LIMIT),
    ],
)
def test_the_same_key_twice(attempts: list[Attempt], charged: int | None, promised: Guarantees, status: Status) -> None:
    """A replay or the host's book shows one charge; two are bad; where nothing shows, that is said."""
    assert checks.idempotency(_answer(1, 2), _answer(1, 2), attempts, charged, promised).status is status


def test_busy_hosts_should_say_for_how_long() -> None:
    """One silent refusal is a limit."""
    assert checks.retry_after([_attempt()]).status is Status.SKIPPED
    assert checks.retry_after([_attempt(status=429, retry_after=1.0)]).status is Status.OK
    mixed = [_attempt(status=429, retry_after=1.0), _attempt(status=503)]
    assert checks.retry_after(mixed).status is Status.LIMIT


def test_times_and_rates() -> None:
    """The median of the small questions, and forwards a second of the large one."""
    assert checks.latency([_attempt(latency=s) for s in (0.1, 9.0, 0.2)]).data["seconds"] == 0.2
    assert checks.batch(_answer(1, 2, forwards=64), 2.0).data["rate"] == 32.0


def test_prices_are_a_limit_where_the_host_does_not_say_them() -> None:
    """A cap on money would cap nothing."""
    card = FakeHost().card
    assert checks.prices(card, ALL).status is Status.OK
    assert checks.prices(card, Guarantees(exact_cost=False)).status is Status.LIMIT


def test_settings_fit_the_host() -> None:
    """Samples tell words apart, within the host's limits; a ranking host's generation fits into one request."""
    card = FakeHost().card
    assert checks.recommend(card, Spread(0.1, 1.0, 0.2)).samples == 16
    small = card.model_copy(update={"limits": Limits(max_samples=5)})
    assert checks.recommend(small, Spread(0.1, 1.0, 0.2)).samples == 5
    ranking = card.model_copy(update={"reply_mode": "rank", "limits": Limits(max_forwards=40)})
    told = checks.recommend(ranking, None)
    assert told.popsize * told.samples <= 40
    assert checks.recommend(card.model_copy(update={"objectives": ["images"]}), None).objective == "images"
