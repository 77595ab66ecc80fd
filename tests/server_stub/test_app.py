"""Tests of the routes as a client sees them, on the fake engine."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blackbox_ti.wire import ImagesReply, LossReply, ModelCard, Problem, Tensor, VocabularyReply, decode_tensor
from tests.server_stub.fake_engine import DIM, FakeEngine
from tests.server_stub.served import Served, embeddings, images_body, loss_body, served


@pytest.fixture
def app() -> Iterator[Served]:
    """Yield the app with its defaults."""
    with served() as running:
        yield running


def problem(reply: Any, status: int, code: str) -> Problem:
    """Check a refusal's form and return it."""
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json"), reply.text
    found = Problem.model_validate_json(reply.content)
    assert (found.status, found.code, found.request_id) == (status, code, reply.headers["x-request-id"])
    assert found.title
    return found


def test_the_model_card_carries_the_engine_and_the_bound_on_norms(app: Served) -> None:
    """The card says what the engine is, and bounds norms at 32 times the vocabulary's usual largest."""
    card = ModelCard.model_validate_json(app.client.get("/v1/model").content)
    (encoder,) = card.encoders
    assert (card.model, card.protocol_version, card.reply_mode) == ("fake", "1", "exact")
    assert card.limits.max_norm == pytest.approx(32 * (encoder.norm_mean + 3 * encoder.norm_std))
    assert card.limits.max_prompt_tokens == 20
    assert card.receipt_public_key is not None


def test_losses_are_the_engines_and_cost_candidates_times_samples(app: Served) -> None:
    """A loss request returns one loss a candidate and sample, and is charged exactly that."""
    reply = app.charged("/v1/loss", loss_body(app.concept(), candidates=3, samples=4))
    parsed = LossReply.model_validate_json(reply.content)
    assert parsed.losses is not None
    assert decode_tensor(parsed.losses).shape == (3, 4)
    assert (parsed.candidates, parsed.charge.forwards, parsed.charge.queries) == ([0, 1, 2], 12, 3)
    assert parsed.charge.receipt is not None
    assert reply.headers["receipt-head"] == parsed.charge.receipt.hash


def test_a_bad_candidate_fails_alone(app: Served) -> None:
    """Candidates with NaN, infinity, a long vector or a NaN loss are rejected; the neighbour's losses are the same."""
    concept = app.concept()
    values = np.full((5, 1, DIM), 0.5)
    values[0, 0, 3], values[1, 0, 0], values[3, 0, 0], values[4, 0, 0] = np.nan, np.inf, 1e9, 2.5
    reply = LossReply.model_validate_json(
        app.charged("/v1/loss", loss_body(concept, embeddings=embeddings(values))).content
    )
    alone = LossReply.model_validate_json(
        app.charged("/v1/loss", loss_body(concept, embeddings=embeddings(values[2:3]))).content
    )
    assert reply.candidates == [2]
    assert reply.losses == alone.losses
    assert [(r.candidate, r.code) for r in reply.rejected] == [
        (0, "not_finite"),
        (1, "not_finite"),
        (3, "norm_exceeded"),
        (4, "non_finite_loss"),
    ]
    assert (reply.charge.forwards, reply.charge.queries) == (2, 1)


def test_a_request_of_bad_candidates_alone_costs_nothing(app: Served) -> None:
    """Where every candidate is rejected nothing runs and nothing is charged."""
    body = loss_body(app.concept(), embeddings=embeddings(np.full((2, 1, DIM), np.nan)))
    calls = app.engine.calls
    reply = LossReply.model_validate_json(app.charged("/v1/loss", body).content)
    assert (reply.candidates, len(reply.rejected), reply.charge.forwards, app.engine.calls) == ([], 2, 0, calls)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"placeholder_token": "cat"}, 422, "placeholder_taken"),
        ({"placeholder_token": "two words"}, 422, "invalid_request"),
        ({"prompts": ["a " * 30 + "<sks>"]}, 422, "limit_exceeded"),
        ({"prompts": []}, 422, "invalid_request"),
        ({"prompts": ["<sks>"] * 65}, 422, "limit_exceeded"),
        ({"embeddings": {}}, 422, "invalid_request"),
        ({"embeddings": {"other": embeddings(np.ones((1, 1, DIM)))["text"]}}, 422, "invalid_tensor"),
        ({"embeddings": embeddings(np.ones((1, 1, DIM + 1)))}, 422, "invalid_tensor"),
        ({"embeddings": embeddings(np.ones((1, DIM)))}, 422, "invalid_tensor"),
        ({"embeddings": embeddings(np.ones((0, 1, DIM)))}, 422, "invalid_tensor"),
        ({"embeddings": embeddings(np.ones((65, 1, DIM)))}, 422, "limit_exceeded"),
        ({"embeddings": embeddings(np.ones((1, 17, DIM)))}, 422, "limit_exceeded"),
        ({"samples": [{"image": 1, "prompt": 0, "t": 0.5, "seed": 1}]}, 422, "invalid_request"),
        ({"samples": [{"image": 0, "prompt": 0, "t": 1.0, "seed": 1}]}, 422, "invalid_request"),
        ({"samples": [{"image": 0, "prompt": 0, "t": 0.5, "seed": 1}] * 257}, 422, "limit_exceeded"),
        ({"concept": "unknown"}, 404, "concept_not_found"),
        ({"surprise": 1}, 422, "invalid_request"),
    ],
)
def test_a_mistake_in_a_loss_request_refuses_it_whole(
    app: Served, changes: dict[str, Any], status: int, code: str
) -> None:
    """A request that does not fit the model, the limits or the schema is a problem, and nothing is charged."""
    found = problem(app.charged("/v1/loss", loss_body(app.concept()) | changes), status, code)
    assert not found.retryable
    assert app.client.get("/v1/usage").json()["forwards"] == 0


def test_a_tensor_whose_bytes_do_not_fit_its_shape_is_refused(app: Served) -> None:
    """Truncated, overlong or non-base64 data is an invalid tensor."""
    good = embeddings(np.ones((1, 1, DIM)))["text"]
    for data in (good["data"][:-4], good["data"] + "AAAA", "*" * len(good["data"]), ""):
        tensor = Tensor(**(good | {"data": data})).model_dump()
        problem(app.charged("/v1/loss", loss_body(app.concept(), embeddings={"text": tensor})), 422, "invalid_tensor")


def test_too_many_forwards_in_one_request_are_refused() -> None:
    """A request over the card's forwards is refused though its candidates and samples are within theirs."""
    with served(limits={"max_forwards": 5}) as app:
        problem(app.charged("/v1/loss", loss_body(app.concept(), candidates=3, samples=2)), 422, "limit_exceeded")


@pytest.mark.parametrize("digits", [1, 3, 5])
def test_rounded_losses_have_the_digits_promised(digits: int) -> None:
    """In rounded mode each loss is the exact one to so many significant digits."""
    with served() as exact, served(reply_mode="rounded", reply_digits=digits) as rounded:
        replies = [
            LossReply.model_validate_json(app.charged("/v1/loss", loss_body(app.concept())).content)
            for app in (exact, rounded)
        ]
        assert ModelCard.model_validate_json(rounded.client.get("/v1/model").content).reply_digits == digits
    first, second = (decode_tensor(reply.losses) for reply in replies if reply.losses is not None)
    assert [f"{a:.{digits - 1}e}" for a in first.ravel()] == [f"{b:.{digits - 1}e}" for b in second.ravel()]
    assert [f"{b:.8e}".rstrip("0") for b in second.ravel()] != [f"{a:.8e}".rstrip("0") for a in first.ravel()]


def test_rank_mode_says_only_the_order() -> None:
    """In rank mode no loss leaves, and the order is the one of the exact means."""
    with served() as exact, served(reply_mode="rank") as ranked:
        told = LossReply.model_validate_json(exact.charged("/v1/loss", loss_body(exact.concept())).content)
        order = LossReply.model_validate_json(ranked.charged("/v1/loss", loss_body(ranked.concept())).content)
    assert told.losses is not None
    assert order.losses is None
    assert order.ranking == np.argsort(decode_tensor(told.losses).mean(axis=1)).tolist()


def test_pictures_are_pngs_in_the_order_asked_and_cost_steps_twice_with_guidance(app: Served) -> None:
    """An images request returns a PNG an item and charges steps, twice that with guidance."""
    reply = ImagesReply.model_validate_json(app.charged("/v1/images", images_body()).content)
    assert reply.images[0] is not None
    with Image.open(io.BytesIO(base64.b64decode(reply.images[0]))) as image:
        assert (image.format, image.size) == ("PNG", (16, 16))
    assert (reply.charge.forwards, reply.charge.queries) == (12, 2)
    plain = ImagesReply.model_validate_json(app.charged("/v1/images", images_body(guidance_scale=1.0)).content)
    assert plain.charge.forwards == 6


def test_a_bad_candidates_picture_is_null(app: Served) -> None:
    """Pictures of a rejected candidate are null and free; the others keep their places."""
    values = np.ones((2, 1, DIM))
    values[0, 0, 0] = np.nan
    reply = ImagesReply.model_validate_json(
        app.charged("/v1/images", images_body(embeddings=embeddings(values))).content
    )
    assert [image is None for image in reply.images] == [True, False]
    assert (reply.charge.forwards, [r.candidate for r in reply.rejected]) == (6, [0])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"num_inference_steps": 101}, "limit_exceeded"),
        ({"prompts": ["<sks>"] * 65}, "limit_exceeded"),
        ({"height": 20}, "invalid_request"),
        ({"width": 4096}, "limit_exceeded"),
        ({"items": [{"candidate": 2, "prompt": 0, "seed": 1}]}, "invalid_request"),
        ({"items": [{"candidate": 0, "prompt": 1, "seed": 1}]}, "invalid_request"),
        ({"negative_prompt": "a " * 40}, "limit_exceeded"),
        ({"guidance_scale": 51}, "invalid_request"),
    ],
)
def test_a_mistake_in_an_images_request_refuses_it_whole(app: Served, changes: dict[str, Any], code: str) -> None:
    """An images request out of the limits or the schema is a problem."""
    problem(app.charged("/v1/images", images_body(**changes)), 422, code)


def test_the_vocabulary_is_off_unless_turned_on(app: Served) -> None:
    """Without the setting the token table is not offered."""
    problem(app.client.get("/v1/vocabulary", params={"encoder": "text"}), 404, "not_offered")


def test_the_vocabulary_comes_in_pages() -> None:
    """Turned on, the pages put together are the engine's table."""
    with served(vocabulary=True, max_vocabulary_page=2) as app:
        pages = [
            VocabularyReply.model_validate_json(
                app.client.get("/v1/vocabulary", params={"encoder": "text", "offset": offset}).content
            )
            for offset in (0, 2, 4)
        ]
        tokens, table = app.engine.vocabulary("text")
        problem(app.client.get("/v1/vocabulary", params={"encoder": "x"}), 422, "invalid_request")
        problem(app.client.get("/v1/vocabulary", params={"encoder": "text", "offset": -1}), 422, "invalid_request")
    assert [token for page in pages for token in page.tokens] == list(tokens)
    np.testing.assert_array_equal(np.concatenate([decode_tensor(page.embeddings) for page in pages]), table)


def test_a_removed_concept_is_gone(app: Served) -> None:
    """After DELETE the concept cannot be scored, and a second DELETE finds nothing."""
    concept = app.concept()
    assert app.client.delete(f"/v1/concepts/{concept}").status_code == 204
    problem(app.client.delete(f"/v1/concepts/{concept}"), 404, "concept_not_found")
    problem(app.charged("/v1/loss", loss_body(concept)), 404, "concept_not_found")


def test_the_same_key_and_body_is_answered_from_the_books(app: Served) -> None:
    """A repeated key gets the same bytes, marked as a replay, without the engine and without a second charge."""
    body = loss_body(app.concept())
    first = app.charged("/v1/loss", body, key="k")
    calls = app.engine.calls
    again = app.charged("/v1/loss", body, key="k")
    assert (again.content, app.engine.calls) == (first.content, calls)
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert app.client.get("/v1/usage").json()["forwards"] == 6


def test_a_replay_outlives_its_concept(app: Served) -> None:
    """A stored reply is delivered though the concept was removed meanwhile."""
    concept = app.concept()
    first = app.charged("/v1/loss", loss_body(concept), key="k")
    app.client.delete(f"/v1/concepts/{concept}")
    assert app.charged("/v1/loss", loss_body(concept), key="k").content == first.content


def test_the_idempotency_key_has_to_be_there_and_to_be_one(app: Served) -> None:
    """A missing or malformed key is a 400; a key of another body is a 422."""
    body = loss_body(app.concept())
    problem(app.client.post("/v1/loss", json=body), 400, "idempotency_key_missing")
    problem(app.charged("/v1/loss", body, key="k" * 256), 400, "invalid_request")
    problem(app.charged("/v1/loss", body, key="a b"), 400, "invalid_request")
    app.charged("/v1/loss", body, key="k")
    problem(app.charged("/v1/loss", loss_body(body["concept"], samples=1), key="k"), 422, "idempotency_key_reused")
    problem(app.charged("/v1/images", images_body(), key="k"), 422, "idempotency_key_reused")


def test_a_key_in_flight_is_a_retryable_conflict() -> None:
    """While the first request computes, the same key is answered 409 with Retry-After."""
    with served() as app:
        body = loss_body(app.concept())
        app.engine.gate.clear()
        app.engine.entered.clear()
        replies: list[Any] = []
        worker = threading.Thread(target=lambda: replies.append(app.charged("/v1/loss", body, key="k")))
        worker.start()
        assert app.engine.entered.wait(10)
        conflict = app.charged("/v1/loss", body, key="k")
        app.engine.gate.set()
        worker.join()
        found = problem(conflict, 409, "idempotency_key_in_flight")
        assert (found.retryable, int(conflict.headers["retry-after"]) >= 1) == (True, True)
        assert replies[0].status_code == 200


def test_a_failing_engine_is_an_opaque_500_and_charges_nothing(app: Served) -> None:
    """An exception inside is told to nobody, the reservation is released, and the same key works afterwards."""
    body = loss_body(app.concept())
    app.engine.error = RuntimeError("secret path /etc/passwd")
    reply = app.charged("/v1/loss", body, key="k")
    assert "secret" not in reply.text
    assert problem(reply, 500, "internal").detail == ""
    assert app.client.get("/v1/usage").json()["forwards"] == 0
    app.engine.error = None
    assert app.charged("/v1/loss", body, key="k").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/model/", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/v1/loss", 405, "method_not_allowed"),
        ("PUT", "/v1/model", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/loss", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_a_route_is_a_problem_too(app: Served, method: str, path: str, status: int, code: str) -> None:
    """Unknown paths and methods are answered with problem details."""
    problem(app.client.request(method, path), status, code)


@pytest.mark.parametrize(
    ("content", "media_type", "status", "code"),
    [
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"{", "application/json", 400, "invalid_request"),
        (b"\xff\xfe", "application/json", 400, "invalid_request"),
        (b"[" * 100_000, "application/json", 400, "invalid_request"),
        (b"[]", "application/json; charset=utf-8", 422, "invalid_request"),
        (b'{"concept": NaN}', "application/json", 422, "invalid_request"),
    ],
)
def test_a_body_that_is_no_request_is_refused(
    app: Served, content: bytes, media_type: str, status: int, code: str
) -> None:
    """Each way for bytes not to be the record has its own answer."""
    problem(app.charged("/v1/loss", content, **{"Content-Type": media_type}), status, code)


def test_a_body_over_the_limit_is_refused_by_its_header_and_while_it_streams() -> None:
    """Neither a Content-Length over the limit nor a stream that grows over it is read to the end."""
    with served(limits={"max_body_bytes": 1000}) as app:
        problem(app.charged("/v1/loss", b"x" * 1001), 413, "body_too_large")
        sent: list[int] = []

        def stream() -> Iterator[bytes]:
            for index in range(100):
                sent.append(index)
                yield b" " * 100

        headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
        problem(app.client.post("/v1/loss", content=stream(), headers=headers), 413, "body_too_large")


def test_headers_over_the_limit_are_refused() -> None:
    """A request whose headers are too long is answered 431."""
    with served(max_header_bytes=500) as app:
        problem(app.client.get("/v1/model", headers={"X-Long": "x" * 600}), 431, "limit_exceeded")


def test_every_reply_has_an_id_and_safe_headers(app: Served) -> None:
    """Request ids differ; replies are not cached, sniffed or framed."""
    first, second = app.client.get("/healthz"), app.client.get("/v1/model")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    for reply in (first, second):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        assert "server" not in reply.headers
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_a_draining_host_refuses_new_work_and_says_when_to_come_back(app: Served) -> None:
    """While draining, readiness and new work are 503 not_ready with Retry-After; health stays."""
    app.host.drain()
    for reply in (app.client.get("/readyz"), app.client.get("/v1/model"), app.charged("/v1/loss", b"{}")):
        assert problem(reply, 503, "not_ready").retryable
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.headers["ratelimit-remaining"] == "0"
    assert app.client.get("/healthz").status_code == 200


def test_the_metrics_count_what_was_charged(app: Served) -> None:
    """Forwards and requests by route and status are exposed to Prometheus; two apps do not share them."""
    app.charged("/v1/loss", loss_body(app.concept()))
    text = app.client.get("/metrics").text
    assert "blackbox_ti_forwards_total 6.0" in text
    assert 'blackbox_ti_requests_total{method="POST",route="/v1/loss",status="200"} 1.0' in text
    with served() as other:
        assert "blackbox_ti_forwards_total 0.0" in other.client.get("/metrics").text


def test_the_openapi_document_names_every_route_and_resolves(app: Served) -> None:
    """Every route of the protocol is documented, and every reference in the document has its target."""
    document = app.client.get("/openapi.json").json()
    foreign = {path for path in document["paths"] if path.startswith("/v2")}
    models = {f"/v2/models/{name}{version}" for name in ("loss", "images") for version in ("", "/versions/1")}
    inference = {
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        *(m + end for m in models for end in ("", "/ready", "/infer")),
    }
    assert foreign == inference
    assert set(document["paths"]) - foreign == {
        "/v1/model",
        "/v1/concepts",
        "/v1/concepts/{concept}",
        "/v1/loss",
        "/v1/images",
        "/v1/vocabulary",
        "/v1/usage",
        "/v1/receipts",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    }
    names = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])
    assert {"LossRequest", "Problem", "LossReply"} <= names


def test_nothing_runs_before_the_model_is_warm() -> None:
    """Until the warm-up ends readiness is 503, and so is work."""
    from fastapi.testclient import TestClient

    from server_stub.app import app_of
    from server_stub.host import Host
    from server_stub.settings import Settings

    engine = FakeEngine()
    engine.gate.clear()
    host = Host(engine, Settings())
    with TestClient(app_of(host), base_url="http://127.0.0.1") as client:
        problem(client.get("/readyz"), 503, "not_ready")
        problem(client.post("/v1/loss", headers={"Idempotency-Key": "k"}), 503, "not_ready")
        assert client.get("/healthz").status_code == 200
        engine.gate.set()
        host.warm.result(10)
        assert client.get("/readyz").status_code == 200
