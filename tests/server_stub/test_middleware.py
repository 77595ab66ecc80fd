"""Tests of the layer around all routes."""

from __future__ import annotations

from tests.server_stub.served import served


def test_a_strangers_words_make_no_metric_and_no_header() -> None:
    """Odd methods and paths are counted under fixed labels; a request id sent along is not taken over."""
    with served() as app:
        reply = app.client.request("SECRETMETHOD", "/secretpath", headers={"X-Request-Id": "secretid"})
        text = app.client.get("/metrics").text
        assert (reply.status_code, "secret" in reply.headers["x-request-id"]) == (404, False)
        assert 'method="other",route="unmatched",status="404"' in text
        assert "secret" not in text.lower()


def test_an_error_outside_the_routes_is_opaque_too() -> None:
    """Whatever breaks, a stranger sees an opaque 500 with its id, and the next request is served."""
    with served() as app:
        guarded, app.host.accounts.guarded = app.host.accounts.guarded, None  # type: ignore[method-assign, assignment]
        reply = app.client.get("/v1/model")
        assert (reply.status_code, reply.json()["code"], reply.json()["detail"]) == (500, "internal", "")
        assert reply.json()["request_id"] == reply.headers["x-request-id"]
        app.host.accounts.guarded = guarded  # type: ignore[method-assign]
        assert app.client.get("/v1/model").status_code == 200


def test_a_content_length_that_lies_upwards_is_refused_unread() -> None:
    """A Content-Length of any size over the limit is 413 before the body comes."""
    with served(limits={"max_body_bytes": 1000}) as app:
        for length in ("1001", "9" * 30):
            reply = app.client.post("/v1/loss", content=iter([b""]), headers={"Content-Length": length})
            assert (reply.status_code, reply.headers["connection"]) == (413, "close")
