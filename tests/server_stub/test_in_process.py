"""A model in this process as an endpoint."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from blackbox_ti.errors import InputError, RejectedError
from blackbox_ti.generate import generate
from blackbox_ti.inversion import invert
from blackbox_ti.settings import InversionSettings
from blackbox_ti.wire import Limits
from server_stub.engine import ImageJob
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


class _Busy(FakeEngine):
    """An engine that notices when it is asked two things at once."""

    def __init__(self) -> None:
        super().__init__(seconds=0.01)
        self.at_work = 0
        self.most = 0

    def images(self, job: ImageJob) -> list[Image.Image]:
        """Draw, counting."""
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        made = super().images(job)
        self.at_work -= 1
        return made


def test_the_engine_is_asked_one_thing_at_a_time() -> None:
    """However many threads call; what they spent adds up."""
    engine = _Busy()
    endpoint = InProcessEndpoint(engine)
    word = {"text": np.ones((1, endpoint.describe().encoders[0].dim), dtype=np.float32)}
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda s: generate(endpoint, word, "<x>", ["<x>"], [s], num_inference_steps=2), range(16)))
    assert engine.most == 1
    assert len(made) == 16
    assert endpoint.usage().queries == 16


def test_a_loaded_pipeline_is_an_endpoint() -> None:
    """It draws what the pipeline draws with the word loaded; a kind that is not served is named."""
    import torch
    from diffusers import StableDiffusionPipeline

    from server_stub.tiny import PIPELINE_DIR

    pipe = StableDiffusionPipeline.from_pretrained(PIPELINE_DIR)
    endpoint = InProcessEndpoint.from_pipeline(pipe)
    table = endpoint.vocabulary(endpoint.describe().encoders[0].name)
    star = {endpoint.describe().encoders[0].name: table.embeddings[list(table.tokens).index("star</w>")][None]}
    (picture,) = generate(endpoint, star, "<x>", ["a photo of a <x>"], [5], num_inference_steps=3)[0]
    generator = torch.Generator().manual_seed(5)
    drawn = pipe("a photo of a star", generator=generator, num_inference_steps=3, guidance_scale=5.0).images[0]
    assert np.abs(np.asarray(picture, dtype=int) - np.asarray(drawn, dtype=int)).max() <= 1
    with pytest.raises(InputError, match="object"):
        InProcessEndpoint.from_pipeline(object())
