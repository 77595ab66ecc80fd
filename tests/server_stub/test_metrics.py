"""Tests of the metrics' form."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from server_stub.metrics import Metrics


def test_the_exposition_parses_and_counts() -> None:
    """What is exposed is Prometheus' text format with the numbers that were counted."""
    metrics = Metrics()
    metrics.answered("/v1/loss", "POST", 200, 0.3)
    metrics.answered("/v1/loss", "POST", 503, 4.0)
    metrics.forwards.inc(7)
    families = {family.name: family for family in text_string_to_metric_families(metrics.exposition().decode())}
    statuses = {
        s.labels["status"]: s.value for s in families["blackbox_ti_requests"].samples if s.name.endswith("_total")
    }
    assert statuses == {"200": 1.0, "503": 1.0}
    assert [s.value for s in families["blackbox_ti_forwards"].samples if s.name.endswith("_total")] == [7.0]
    assert {s.value for s in families["blackbox_ti_request_seconds"].samples if s.name.endswith("_sum")} == {4.3}


def test_two_registries_do_not_share() -> None:
    """An app's numbers are its own."""
    first, second = Metrics(), Metrics()
    first.queries.inc(3)
    assert b"blackbox_ti_queries_total 3.0" in first.exposition()
    assert b"blackbox_ti_queries_total 0.0" in second.exposition()
