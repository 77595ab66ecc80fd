"""A model in this process as an endpoint."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from blackbox_ti.errors import RejectedError
from blackbox_ti.generate import generate
from blackbox_ti.inversion import invert
from blackbox_ti.plan import InversionSettings
from blackbox_ti.wire import Limits
from server_stub.in_process import InProcessEndpoint
from tests.fake_host import loss_request
from tests.server_stub.fake_engine import FakeEngine


def test_a_word_is_learned_without_a_socket() -> None:
    """The search does not know which endpoint it talks to; costs are exact."""
    endpoint = InProcessEndpoint(FakeEngine(), limits=Limits())
    card = endpoint.describe()
    side = card.resolution
    settings = InversionSettings(max_forwards=800, dimension=3, subspace="random", initializer_token="auto")
    result = invert(endpoint, [Image.new("RGB", (side, side), (200, 30, 30))], settings)
    assert result.heldout_loss_before is not None
    assert result.heldout_loss_after is not None
    assert result.heldout_loss_after <= result.heldout_loss_before
    assert result.forwards == endpoint.usage().forwards <= 800
    pictures = generate(endpoint, result.embedding, "<sks>", ["a <sks>"], [1], num_inference_steps=2)
    assert pictures[0][0].size == (side, side)


def test_an_unknown_concept_is_refused() -> None:
    """Nothing is scored against pictures nobody registered."""
    endpoint = InProcessEndpoint(FakeEngine())
    dim = endpoint.describe().encoders[0].dim
    with pytest.raises(RejectedError):
        endpoint.losses(loss_request("none", np.zeros((1, 1, dim), dtype=np.float32)), label="x")
