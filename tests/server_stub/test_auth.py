"""Tests of who may do what: keys, scopes, strangers, rates and the walls between accounts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from blackbox_ti.wire import Problem
from server_stub.accounts import Scope
from server_stub.limiter import Limiter
from server_stub.middleware import OPEN_ROUTES
from server_stub.spending import Budget, Period, set_budget
from tests.server_stub.served import Served, images_body, loss_body, served


@pytest.fixture
def app() -> Iterator[Served]:
    """Yield an app whose vocabulary is on."""
    with served(vocabulary=True) as running:
        yield running


def bearer(app: Served, account: str = "ada", *scopes: Scope, **options: Any) -> dict[str, str]:
    """Return the headers of a new key."""
    _, key = app.host.accounts.create_key(account, scopes=scopes or tuple(Scope), **options)
    return {"Authorization": f"Bearer {key}"}


def code(reply: Any) -> tuple[int, str]:
    """Return a refusal's status and code."""
    return reply.status_code, Problem.model_validate_json(reply.content).code


ROUTES = [
    ("GET", "/v1/model", None),
    ("POST", "/v1/concepts", Scope.LOSS),
    ("DELETE", "/v1/concepts/x", Scope.LOSS),
    ("POST", "/v1/loss", Scope.LOSS),
    ("POST", "/v1/images", Scope.IMAGES),
    ("GET", "/v1/vocabulary?encoder=text", Scope.VOCABULARY),
    ("GET", "/v1/usage", Scope.USAGE),
    ("GET", "/v1/receipts", Scope.AUDIT),
    ("GET", "/v2", None),
    *(
        (method, f"/v2/models/{model}{version}{rest}", scope if rest == "/infer" else None)
        for model, scope in (("loss", Scope.LOSS), ("images", Scope.IMAGES))
        for version in ("", "/versions/1")
        for method, rest in (("GET", ""), ("GET", "/ready"), ("POST", "/infer"))
    ),
    ("GET", "/metrics", Scope.METRICS),
    ("GET", "/openapi.json", None),
]


def test_the_table_of_routes_is_whole(app: Served) -> None:
    """Every documented route is in the table below, or is one of the two that are open."""
    paths = app.client.get("/openapi.json").json()["paths"]
    documented = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    covered = {(m, p.partition("?")[0].replace("concepts/x", "concepts/{concept}")) for m, p, _ in ROUTES}
    assert documented - covered == {("GET", path) for path in OPEN_ROUTES}


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
def test_no_route_ignores_auth(app: Served, method: str, path: str, scope: Scope | None) -> None:
    """Once a key exists, no key, a wrong key and another scheme are 401; a key without the scope is 403."""
    good = bearer(app)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": good["Authorization"][7:]}):
        reply = app.client.request(method, path, headers=headers)
        assert code(reply) == (401, "unauthenticated")
        assert reply.headers["www-authenticate"].startswith("Bearer")
    if scope is not None:
        others = bearer(app, "bob", *(set(Scope) - {scope}))
        assert code(app.client.request(method, path, headers=others)) == (403, "forbidden")
    assert app.client.request(method, path, headers=good).status_code not in {401, 403}


def test_a_refusal_for_want_of_a_key_reads_no_body(app: Served) -> None:
    """A stranger's body is not read: a stream that would fail when read is never touched."""
    bearer(app)

    def stream() -> Iterator[bytes]:
        yield b"{"
        pytest.fail("the body was read on")

    assert code(app.client.post("/v1/loss", content=_first(stream())))[0] == 401


def _first(stream: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the first part of a stream alone; the test client would send it all."""
    yield next(stream)


def test_health_is_open_and_tells_nothing(app: Served) -> None:
    """Health and readiness answer strangers with a word and no version, model or path."""
    bearer(app)
    assert app.client.get("/healthz").json() == {"status": "ok"}
    assert app.client.get("/readyz").json() == {"status": "ready"}


def test_a_name_that_points_at_this_machine_is_not_this_machine(app: Served) -> None:
    """Without keys, a request whose Host header is no loopback name is refused (DNS rebinding)."""
    assert code(app.client.get("/v1/model", headers={"Host": "evil.example"})) == (401, "unauthenticated")
    for name in ("localhost", "127.0.0.1:8900", "[::1]:80"):
        assert app.client.get("/v1/model", headers={"Host": name}).status_code == 200


def test_anonymous_service_is_for_loopback_addresses_alone() -> None:
    """An app that is bound elsewhere, or behind a proxy, knows no local account."""
    for settings in ({"host": "0.0.0.0"}, {"behind_tls_proxy": True}):
        with served(**settings) as app:
            assert code(app.client.get("/v1/model")) == (401, "unauthenticated")


def test_nobody_sees_or_removes_anothers_concept(app: Served) -> None:
    """An account's concept id is unknown to every other account, and the same pictures have other ids there."""
    ada, bob = bearer(app, "ada"), bearer(app, "bob")
    mine = app.concept(headers=ada)
    assert code(app.charged("/v1/loss", loss_body(mine), **bob)) == (404, "concept_not_found")
    assert code(app.client.delete(f"/v1/concepts/{mine}", headers=bob)) == (404, "concept_not_found")
    assert app.concept(headers=bob) != mine
    assert app.charged("/v1/loss", loss_body(mine), **ada).status_code == 200


def test_nobody_sees_anothers_reply_receipts_or_spending(app: Served) -> None:
    """The same idempotency key in two accounts is two operations, and each sees its own books alone."""
    ada, bob = bearer(app, "ada"), bearer(app, "bob")
    first = app.charged("/v1/images", images_body(), key="k", **ada)
    second = app.charged("/v1/images", images_body(), key="k", **bob)
    assert "idempotent-replayed" not in second.headers
    assert first.json()["charge"]["receipt"]["account"] == "ada"
    seen = app.client.get("/v1/receipts", headers=bob).json()["receipts"]
    assert [(r["account"], r["sequence"]) for r in seen] == [("bob", 1)]
    assert app.client.get("/v1/usage", headers=bob).json()["forwards"] == 12


def test_a_spent_budget_is_its_own_refusal_and_never_retried(app: Served) -> None:
    """Over the cap is 402 budget_spent, not retryable, computes nothing, and usage says what is left."""
    ada = bearer(app, "ada")
    concept = app.concept(headers=ada)
    set_budget(app.host.books, app.host.accounts.ensure("ada"), Period.DAY, Budget(max_forwards=10))
    assert app.charged("/v1/loss", loss_body(concept), **ada).status_code == 200
    calls = app.engine.calls
    refused = app.charged("/v1/loss", loss_body(concept), **ada)
    assert code(refused) == (402, "budget_spent")
    assert (refused.json()["retryable"], "retry-after" in refused.headers, app.engine.calls) == (False, False, calls)
    usage = app.client.get("/v1/usage", headers=ada).json()
    assert (usage["forwards"], usage["max_forwards"], usage["max_queries"]) == (6, 10, None)
    assert app.charged("/v1/loss", loss_body(concept, candidates=2), **ada).status_code == 200


def test_money_is_counted_in_the_hosts_prices() -> None:
    """The price of a charge is forwards and queries times the unit prices, and a cap on money holds."""
    with served(prices={"currency": "EUR", "forward_micros": 10, "query_micros": 3}) as app:
        ada = bearer(app, "ada")
        concept = app.concept(headers=ada)
        set_budget(app.host.books, app.host.accounts.ensure("ada"), Period.TOTAL, Budget(max_price_micros=100))
        charge = app.charged("/v1/loss", loss_body(concept), **ada).json()["charge"]
        assert (charge["price_micros"], charge["receipt"]["currency"]) == (6 * 10 + 3 * 3, "EUR")
        assert code(app.charged("/v1/loss", loss_body(concept), **ada)) == (402, "budget_spent")


def test_the_rate_of_a_key_is_limited_and_told() -> None:
    """Over the rate is 429 with Retry-After and RateLimit headers; another key is not affected."""
    with served(requests_per_second=0.01, requests_burst=3) as app:
        ada, bob = bearer(app, "ada"), bearer(app, "bob")
        left = [app.client.get("/v1/model", headers=ada).headers["ratelimit-remaining"] for _ in range(3)]
        refused = app.client.get("/v1/model", headers=ada)
        assert left == ["2", "1", "0"]
        assert code(refused) == (429, "rate_limited")
        assert refused.json()["retryable"]
        assert 90 <= int(refused.headers["retry-after"]) <= 100
        assert (refused.headers["ratelimit-limit"], refused.headers["ratelimit-remaining"]) == ("3", "0")
        assert int(refused.headers["ratelimit-reset"]) >= 290
        assert app.client.get("/v1/model", headers=bob).status_code == 200


def test_guessing_keys_is_slowed_down_but_locks_nobody_out(app: Served) -> None:
    """After some wrong keys an address gets 429 instead of 401; a right key from there still works."""
    good = bearer(app)
    app.host.strangers = Limiter(rate=0.001, burst=5)
    wrong = {"Authorization": f"Bearer bti_{'0' * 16}_{'A' * 43}"}
    statuses = [app.client.get("/v1/model", headers=wrong).status_code for _ in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    assert app.client.get("/v1/model", headers=good).status_code == 200


def test_the_concurrency_of_a_key_is_limited() -> None:
    """A key's requests beyond its slots are 429 with Retry-After while the others run."""
    with served(limits={"max_concurrency": 1}) as app:
        ada, bob = bearer(app, "ada"), bearer(app, "bob")
        concept = app.concept(headers=ada)
        app.engine.gate.clear()
        app.engine.entered.clear()
        replies: list[Any] = []
        worker = threading.Thread(target=lambda: replies.append(app.charged("/v1/loss", loss_body(concept), **ada)))
        worker.start()
        assert app.engine.entered.wait(10)
        refused = app.charged("/v1/loss", loss_body(concept), **ada)
        other = app.charged("/v1/loss", loss_body(concept), **bob)
        app.engine.gate.set()
        worker.join()
        assert (code(refused), code(other)) == ((429, "rate_limited"), (404, "concept_not_found"))
        assert int(refused.headers["retry-after"]) >= 1
        assert replies[0].status_code == 200
        assert app.charged("/v1/loss", loss_body(concept), **ada).status_code == 200


def test_a_full_queue_is_503_with_retry_after_and_charges_nothing() -> None:
    """Beyond the queue's length work is refused as overloaded, and its reservation is given back."""
    with served(max_queue=1) as app:
        concept = app.concept()
        app.engine.gate.clear()
        app.engine.entered.clear()
        replies: list[Any] = []

        def ask() -> None:
            replies.append(app.charged("/v1/loss", loss_body(concept)))

        workers = [threading.Thread(target=ask) for _ in range(4)]
        for worker in workers:
            worker.start()
        while not any(reply.status_code == 503 for reply in replies):
            assert app.engine.entered.wait(10)
            workers[0].join(0.01)
        app.engine.gate.set()
        for worker in workers:
            worker.join()
        refused = [reply for reply in replies if reply.status_code != 200]
        assert {code(reply) for reply in refused} == {(503, "overloaded")}
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
        assert all("ratelimit-limit" in reply.headers for reply in refused)
        assert app.client.get("/v1/usage").json()["forwards"] == 6 * (4 - len(refused))


def test_too_many_requests_in_all_are_refused_early() -> None:
    """Beyond the number of requests under way in all, a new one is 503 before anything else."""
    with served(max_active=1) as app:
        app.host.active += 1
        assert code(app.client.get("/v1/model")) == (503, "overloaded")
        assert app.client.get("/healthz").status_code == 200
        app.host.active -= 1
        assert app.client.get("/v1/model").status_code == 200
