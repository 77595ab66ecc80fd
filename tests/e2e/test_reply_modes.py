"""The client learns from the real server in each of its reply modes, and takes its pictures away at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blackbox_ti.budget import Caps
from blackbox_ti.concept import load_concept
from blackbox_ti.http_endpoint import HttpEndpoint
from blackbox_ti.inversion import StopReason, invert
from blackbox_ti.run_folder import run_endpoint
from blackbox_ti.settings import InversionSettings
from tests.e2e.server_processes import fake_server

PICTURES = [Image.new("RGB", (16, 16), (200, 30, 30))]
SETTINGS = InversionSettings(max_forwards=900, dimension=4, initializer_token="dog", seed=4)


@pytest.mark.parametrize("mode", ["exact", "rounded", "rank"])
def test_a_word_is_learned_in_every_mode(tmp_path: Path, mode: Any) -> None:
    """The word is nearer to the host's target than its start, the books agree, and what is told is what was promised."""
    with fake_server(tmp_path, vocabulary=True, reply_mode=mode, reply_digits=3) as server:
        concept, caps = load_concept(PICTURES, 16), Caps(forwards=900)
        folder = tmp_path / "run"
        with run_endpoint(
            folder, lambda h: HttpEndpoint(server.url, on_attempt=h), SETTINGS, concept, caps
        ) as endpoint:
            result = invert(endpoint, PICTURES, SETTINGS)
            assert endpoint.usage().forwards == result.forwards <= 900
        kept = list((tmp_path / "state").rglob("*.safetensors"))
    target = np.asarray(PICTURES[0], np.float32).mean() / 255
    before, after = (float(((e["text"] - target) ** 2).mean()) for e in (result.initial_embedding, result.embedding))
    assert result.stop_reason in {StopReason.PLAN_FINISHED, StopReason.NOTHING_MORE_LEARNED}
    assert after < before
    assert (result.heldout_loss_after is None) == (mode == "rank")
    assert kept == []


@pytest.mark.parametrize("keep", [False, True])
def test_pictures_stay_on_the_host_only_if_asked(tmp_path: Path, keep: bool) -> None:
    """Without `keep_concept` the host's latents are gone when the run is over, from its folder too."""
    with fake_server(tmp_path, vocabulary=True) as server:
        endpoint = HttpEndpoint(server.url)
        invert(endpoint, PICTURES, SETTINGS, keep_concept=keep)
        endpoint.close()
        kept = list((tmp_path / "state").rglob("*.safetensors"))
    assert len(kept) == keep
