"""A loss job's rows: how often texts are encoded, in which order, and how batches are filled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blackbox_ti.wire import Sample
from server_stub.engine import LossJob
from server_stub.families import Conditioning
from server_stub.families.stable_diffusion import StableDiffusion
from server_stub.loss_work import TEXT_BATCH, LossWork, pad
from tests.server_stub.tiny_models import WIDTH, save_stable_diffusion

CPU = torch.device("cpu")
PROMPTS = ["a photo of <sks>", "a <sks> dog", "a sketch"]


class _Counting(StableDiffusion):
    """Notes the rows of each pass of the text encoder."""

    passes: list[int]

    def encode_text(self, ids: Mapping[str, Tensor]) -> Conditioning:
        self.passes.append(len(ids["text_encoder"]))
        return super().encode_text(ids)


@pytest.fixture(scope="module", name="loaded")
def _loaded(tmp_path_factory: pytest.TempPathFactory) -> _Counting:
    folder: Path = save_stable_diffusion(tmp_path_factory.mktemp("sd"))
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    return _Counting(pipe)


@pytest.fixture(name="family")
def _family(loaded: _Counting) -> _Counting:
    loaded.passes = []
    return loaded


def _job(candidates: int, samples: int, prompts: int) -> LossJob:
    rng = np.random.default_rng(2)
    latents = rng.normal(size=(2, 4, 8, 8)).astype(np.float32)
    vectors = {"text_encoder": rng.normal(size=(candidates, 1, WIDTH)).astype(np.float32)}
    bank = [Sample(image=i % 2, prompt=i % prompts, t=(i + 0.5) / samples, seed=i) for i in range(samples)]
    return LossJob(latents, "<sks>", vectors, PROMPTS, bank)


def _states(work: LossWork, step: int) -> Tensor:
    with torch.inference_mode():
        parts = [work.inputs(at, min(at + step, work.rows)) for at in range(0, work.rows, step)]
    return torch.cat([part.conditioning["states"] for part in parts])


@pytest.mark.parametrize("ahead", [1, 3, 100])
@pytest.mark.parametrize("step", [1, 5, 64])
def test_each_text_is_encoded_once(family: _Counting, step: int, ahead: int) -> None:
    """5 candidates under 2 prompts are 10 texts, so 3 passes of 4, however the rows are asked for."""
    states = _states(LossWork(family, _job(5, 6, 2), CPU, ahead=ahead), step)
    assert family.passes == [TEXT_BATCH] * 3
    assert torch.equal(states, _states(LossWork(family, _job(5, 6, 2), CPU), 30))


@pytest.mark.parametrize(("ahead", "passes"), [(1, 1), (2, 2), (100, 3)])
def test_texts_are_encoded_as_far_ahead_as_asked(family: _Counting, ahead: int, passes: int) -> None:
    """The first row brings one pass, or as many as are wanted at a visit, and no more than there are texts."""
    work = LossWork(family, _job(5, 6, 2), CPU, ahead=ahead)
    assert family.passes == []
    with torch.inference_mode():
        work.inputs(0, 1)
    assert len(family.passes) == passes


def test_prompts_no_sample_names_are_not_encoded(family: _Counting) -> None:
    """Four candidates whose samples all name one prompt of three are one pass."""
    _states(LossWork(family, _job(4, 6, 1), CPU), 24)
    assert family.passes == [TEXT_BATCH]


def test_losses_are_filed_where_they_belong(family: _Counting) -> None:
    """Losses kept in the rows' own order come back as (candidates, samples); a row never scored is NaN."""
    job = _job(3, 4, 2)
    work = LossWork(family, job, CPU)
    with torch.inference_mode():
        noisy = work.inputs(0, work.rows).noisy.flatten(1)[:, 0]
        work.keep(0, noisy[:5])
        work.keep(5, noisy[5:11])
    result = work.result()
    assert result.shape == (3, 4)
    assert np.isnan(result).sum() == 1
    rows = np.where(np.isnan(result), result[0], result)
    assert (rows == rows[0]).all()  # a sample's noisy latent is the same for every candidate
    assert len(np.unique(rows[0])) == 4


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 8))
def test_padding_keeps_rows_and_repeats_the_first(lengths: list[int], room: int) -> None:
    """The rows come first and in order, copies of the first fill the batch, and the result is contiguous."""
    rows = torch.arange(2.0 * sum(lengths)).reshape(2, -1).T
    size = len(rows) + room
    padded = pad(torch.split(rows, lengths), size)
    assert padded.shape == (size, 2)
    assert padded.is_contiguous()
    assert torch.equal(padded[: len(rows)], rows)
    assert (padded[len(rows) :] == rows[0]).all()
    with pytest.raises(ValueError, match="do not fit"):
        pad(torch.split(rows, lengths), len(rows) - 1)
