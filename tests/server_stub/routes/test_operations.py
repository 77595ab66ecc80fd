"""Metrics: their form, and what they do not tell."""

from __future__ import annotations

from server_stub.accounts import Scope
from tests.server_stub.served import served


def test_metrics_are_prometheus_text_without_accounts_or_keys() -> None:
    """The type is the exposition format's, and labels hold nothing of who asked or what."""
    with served() as app:
        app.host.accounts.create_key("ada-the-account")
        _, key = app.host.accounts.create_key("watcher", scopes=tuple(Scope))
        headers = {"Authorization": f"Bearer {key}"}
        app.concept(headers=headers)
        told = app.client.get("/metrics", headers=headers)
        assert told.headers["content-type"].startswith("text/plain; version=")
        assert not [word for word in ("ada-the-account", "watcher", key) if word in told.text]
