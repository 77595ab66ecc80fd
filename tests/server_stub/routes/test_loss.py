"""Losses over HTTP: what is counted of candidates that failed alone."""

from __future__ import annotations

import numpy as np

from tests.server_stub.fake_engine import DIM
from tests.server_stub.served import embeddings, loss_body, served


def test_rejections_are_counted_by_their_reason_and_cost_nothing() -> None:
    """The metrics name each reason; the charge is for the candidates that were scored."""
    values = np.full((4, 1, DIM), 0.5)
    values[0, 0, 0], values[1, 0, 0], values[2, 0, 0] = np.nan, 1e9, 2.5
    with served() as app:
        reply = app.charged("/v1/loss", loss_body(app.concept(), samples=3, embeddings=embeddings(values)))
        assert reply.json()["charge"]["forwards"] == 3
        metrics = app.client.get("/metrics").text
        for code in ("not_finite", "norm_exceeded", "non_finite_loss"):
            assert any(code in line and line.endswith(" 1.0") for line in metrics.splitlines()), code
