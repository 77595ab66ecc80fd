"""Probing hosts, sound and broken."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

from blackbox_ti.attempt import Attempt
from blackbox_ti.budget import Cost
from blackbox_ti.connection import ConnectionOptions
from blackbox_ti.doctor import Probe, examine
from blackbox_ti.doctor_report import DoctorReport, Status, Verdict
from blackbox_ti.endpoint import RemoteEndpoint
from blackbox_ti.retry import RetryPolicy
from blackbox_ti.wire import LossRequest, ModelCard
from tests.fake_host import FakeHost, fake_endpoint
from tests.hf_host import HfHost, hf_endpoint


def _probe(endpoint: RemoteEndpoint, attempts: list[Attempt], stranger: RemoteEndpoint) -> Probe:
    return Probe(
        endpoint,
        attempts,
        stranger=lambda: stranger,
        options=ConnectionOptions(),
        rng=np.random.default_rng(0),
    )


def _examined(host: FakeHost, *, http: httpx.BaseTransport | None = None, api_key: str | None = None) -> DoctorReport:
    attempts: list[Attempt] = []
    endpoint = fake_endpoint(host, http=http, on_attempt=attempts.append, api_key=api_key)
    return examine(_probe(endpoint, attempts, fake_endpoint(host)))


def _status(report: DoctorReport, check: str) -> Status:
    found = [finding.status for finding in report.findings if finding.check == check]
    assert len(found) == 1, report.to_text()
    return found[0]


def _detail(report: DoctorReport, check: str) -> str:
    return next(finding.detail for finding in report.findings if finding.check == check)


@dataclass
class ImagesOnly(FakeHost):
    """A host that makes pictures and tells no losses."""

    @property
    def card(self) -> ModelCard:
        """Return the card of such a host."""
        return super().card.model_copy(update={"objectives": ["images"]})


@dataclass
class Forgetful(FakeHost):
    """A host that promises idempotency and does and charges everything anew."""

    def _charged(self, request: httpx.Request, *rest: Any) -> httpx.Response:
        self.stored.clear()
        return super()._charged(request, *rest)


@dataclass
class Wobbling(FakeHost):
    """A host whose losses are never twice the same."""

    def loss(self, *given: Any) -> float:
        """Return the loss, a little off."""
        return super().loss(*given) * (1 + 1e-3 * len(self.receipts))


@dataclass
class Crowded(FakeHost):
    """A host whose losses depend on what shares a request."""

    _crowd = 1.0

    def _losses(self, body: bytes) -> Any:
        self._crowd = float(LossRequest.model_validate_json(body).embeddings["text"].shape[0])
        return super()._losses(body)

    def loss(self, *given: Any) -> float:
        """Return the loss, a little off in company."""
        return super().loss(*given) + 1e-3 * self._crowd


def test_a_sound_host_is_ok_and_costs_what_was_said() -> None:
    """Every check is made, the cost told beforehand bounds what the host charged, and settings are recommended."""
    host = FakeHost(api_key="k")
    told: list[Cost] = []
    attempts: list[Attempt] = []
    endpoint = fake_endpoint(host, on_attempt=attempts.append, api_key="k")
    probe = _probe(endpoint, attempts, fake_endpoint(host))

    def on_cost(cost: Cost, card: ModelCard) -> bool:
        assert host.forwards == 0
        told.append(cost)
        return True

    report = examine(probe, on_cost=on_cost)
    assert report.verdict is Verdict.OK, report.to_text()
    assert (report.verdict.exit_code, report.spent.forwards) == (0, host.forwards)
    assert host.forwards <= told[0].forwards <= 150
    assert report.recommended is not None
    assert report.recommended.objective == "loss"
    assert not host.concepts
    assert {f.check for f in report.findings} == {
        "tls", "reachable", "protocol", "model", "dimensions", "objectives", "limits", "auth", "concept", "noise",
        "idempotency", "determinism", "batch mates", "dtype", "largest batch", "latency", "retry-after", "prices",
        "guarantees",
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["rounded", "rank"])
def test_other_reply_modes_are_probed_too(mode: str) -> None:
    """Ranks tell no noise; a generation is recommended that fits into one request."""
    host = FakeHost(reply_mode=mode)
    report = _examined(host)
    assert report.verdict is Verdict.OK, report.to_text()
    assert (_status(report, "noise") is Status.SKIPPED) == (mode == "rank")


def test_a_host_of_pictures_alone_is_probed_by_pictures() -> None:
    """No picture of anybody's is sent there, and the objective recommended is the one it has."""
    host = ImagesOnly()
    report = _examined(host)
    assert report.verdict is Verdict.OK, report.to_text()
    assert report.recommended is not None
    assert report.recommended.objective == "images"
    assert ("POST", "/v1/concepts") not in host.requests
    assert _status(report, "noise") is Status.SKIPPED
    assert "byte for byte" in _detail(report, "determinism")
    assert report.spent.forwards == host.forwards


def test_a_host_that_charges_the_same_key_twice_is_not_usable() -> None:
    """It promised not to; the second charge counts as spent."""
    host = Forgetful()
    report = _examined(host)
    assert _status(report, "idempotency") is Status.BAD
    assert report.verdict is Verdict.NOT_USABLE
    assert report.verdict.exit_code == 21
    assert report.spent.forwards == host.forwards


def test_a_host_that_wobbles_is_usable_with_limits() -> None:
    """The size of the wobble is told."""
    report = _examined(Wobbling())
    assert _status(report, "determinism") is Status.LIMIT
    assert "e-0" in _detail(report, "determinism")
    assert (report.verdict, report.verdict.exit_code) == (Verdict.LIMITS, 20)


def test_a_host_whose_answers_depend_on_company_is_told_apart() -> None:
    """The same question alone has the same bits; among others it has not."""
    report = _examined(Crowded())
    assert _status(report, "determinism") is Status.OK
    assert _status(report, "batch mates") is Status.LIMIT


def test_a_wrong_key_and_a_dead_address_are_findings() -> None:
    """Neither crashes the probe, and nothing is recommended."""
    report = _examined(FakeHost(api_key="k"), api_key="wrong")
    assert _status(report, "reachable") is Status.BAD
    assert "key" in _detail(report, "reachable")

    def dead(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    report = _examined(FakeHost(), http=httpx.MockTransport(dead))
    assert (report.verdict, report.recommended) == (Verdict.NOT_USABLE, None)
    assert "verdict: not usable" in report.to_text()


def test_a_host_that_answers_strangers_is_a_limit_off_this_machine() -> None:
    """On loopback it is none."""
    from blackbox_ti import doctor_checks

    card = FakeHost().card
    assert doctor_checks.auth(lambda: card, loopback=True).status is Status.OK
    assert doctor_checks.auth(lambda: card, loopback=False).status is Status.LIMIT


@pytest.mark.parametrize(("headers", "status"), [({"Retry-After": "1"}, Status.OK), ({}, Status.LIMIT)])
def test_busy_replies_should_say_for_how_long(headers: dict[str, str], status: Status) -> None:
    """The first losses meet a busy host."""
    host = FakeHost()
    left = [2]

    def busy(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/loss" and left[0]:
            left[0] -= 1
            return httpx.Response(503, headers=headers)
        return host.handle(request)

    report = _examined(host, http=httpx.MockTransport(busy))
    assert _status(report, "retry-after") is status


@pytest.mark.parametrize("broken", ["/v1/loss", "/v1/concepts", "/v1/usage", "/v1/vocabulary"])
def test_one_broken_route_keeps_no_other_check_from_running(broken: str) -> None:
    """What depends on it is skipped or bad; the rest is told as before."""
    host = FakeHost()

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == broken:
            return httpx.Response(422, json={"status": 422, "code": "invalid_request", "detail": "no"})
        return host.handle(request)

    report = _examined(host, http=httpx.MockTransport(handle))
    assert _status(report, "prices") is Status.OK
    assert _status(report, "guarantees") is Status.OK
    if broken in {"/v1/loss", "/v1/concepts"}:
        assert report.verdict is Verdict.NOT_USABLE
        assert _status(report, "determinism") in {Status.BAD, Status.SKIPPED}
    else:
        assert report.verdict is Verdict.OK, report.to_text()


def test_a_check_that_fails_by_itself_is_a_finding() -> None:
    """Even a mistake of the doctor's own."""
    probe = _probe(fake_endpoint(FakeHost()), [], fake_endpoint(FakeHost()))
    probe.check("strange", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert probe.findings[0].status is Status.BAD
    assert "ZeroDivisionError" in probe.findings[0].detail


def test_a_dry_run_charges_nothing() -> None:
    """Said no to the cost, it tells what it found for free."""
    host = FakeHost()
    attempts: list[Attempt] = []
    probe = _probe(fake_endpoint(host, on_attempt=attempts.append), attempts, fake_endpoint(host))
    report = examine(probe, on_cost=lambda *_: False)
    assert host.forwards == 0
    assert not host.concepts
    assert report.cost.forwards > 0
    assert report.verdict is Verdict.OK


def test_a_hosted_handler_is_usable_with_limits_that_are_said() -> None:
    """No idempotency, no prices, no receipts; the same key is not tried twice."""
    host = HfHost(token="t")
    attempts: list[Attempt] = []
    endpoint = hf_endpoint(host, on_attempt=attempts.append, api_key="t", policy=RetryPolicy(deadline=60))
    report = examine(_probe(endpoint, attempts, hf_endpoint(host)))
    assert report.verdict is Verdict.LIMITS, report.to_text()
    assert _status(report, "auth") is Status.OK
    assert _status(report, "idempotency") is Status.LIMIT
    assert _status(report, "prices") is Status.LIMIT
    assert "receipts" in _detail(report, "guarantees")
    assert report.spent.forwards == host.worked == report.cost.forwards
    assert len({b["parameters"].get("idempotency_key") for b in host.bodies} - {None}) == 5


def test_the_report_is_one_json_object() -> None:
    """With the verdict, the findings, both costs and the settings."""
    told = json.loads(_examined(FakeHost()).to_json())
    assert told["verdict"] == "ok"
    assert told["recommended"]["samples"] >= 4
    assert {f["check"] for f in told["findings"]} >= {"noise", "limits"}
    assert told["spent"]["forwards"] <= told["cost"]["forwards"]
