"""Pictures over HTTP: what a request may ask for beyond what a schema can say."""

from __future__ import annotations

import pytest

from blackbox_ti.wire import ImagesReply, Problem
from tests.server_stub.served import images_body, served


@pytest.mark.parametrize(("guidance", "times"), [(0.0, 1), (1.0, 1), (1.01, 2), (5.0, 2)])
def test_guidance_costs_twice_the_steps_from_above_one(guidance: float, times: int) -> None:
    """The charge is steps an image, and twice that where the denoiser also runs without the prompt."""
    with served() as app:
        reply = app.charged("/v1/images", images_body(guidance_scale=guidance))
        assert ImagesReply.model_validate_json(reply.content).charge.forwards == 2 * 3 * times


def test_sides_are_bounded_by_the_models_resolution() -> None:
    """A picture of the largest side is made, and one beyond it is refused and charged nothing."""
    with served(max_side_factor=2.0) as app:
        side = 2 * app.host.card.resolution
        assert app.charged("/v1/images", images_body(height=side, width=8)).status_code == 200
        spent = app.client.get("/v1/usage").json()["forwards"]
        refused = app.charged("/v1/images", images_body(height=side + 8, width=8))
        assert Problem.model_validate_json(refused.content).code == "limit_exceeded"
        assert app.client.get("/v1/usage").json()["forwards"] == spent
