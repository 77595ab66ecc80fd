"""The part of a denoiser that sees no text: found by running it, run once a sample, and never seen in a loss."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from server_stub.diffusers_engine import DiffusersEngine
from server_stub.engine import Slice
from server_stub.stem import Stem, StemKeeper
from server_stub.warm_up import share, warm_job
from tests.server_stub.sharing import RoundingEngine, job_of, plain_losses
from tests.server_stub.tiny_models import (
    save_flux,
    save_stable_diffusion,
    save_stable_diffusion_3,
    save_stable_diffusion_xl,
)

FAMILIES = [save_stable_diffusion, save_stable_diffusion_xl, save_stable_diffusion_3, save_flux]


@pytest.fixture(scope="module", name="engine")
def _engine(tmp_path_factory: pytest.TempPathFactory) -> DiffusersEngine:
    return DiffusersEngine.load(save_stable_diffusion(tmp_path_factory.mktemp("sd")), device="cpu", micro_batch=4)


def _stem_passes(engine: DiffusersEngine, work: Callable[[], Any]) -> int:
    """Return how often `work` runs a layer inside one of the stem's modules."""
    seen: list[None] = []
    hook = engine.family.denoiser.time_embedding.linear_1.register_forward_hook(lambda *_: seen.append(None))
    try:
        work()
    finally:
        hook.remove()
    return len(seen)


@pytest.mark.parametrize("save", FAMILIES)
def test_losses_are_the_same_bits_with_and_without(save: Callable[[Path], Path], tmp_path: Path) -> None:
    """For every family, whatever it shares or does not."""
    engine = DiffusersEngine.load(save(tmp_path), device="cpu", micro_batch=4)
    engine.warm_up()
    job = job_of(engine, 3, 6)
    assert np.array_equal(engine.losses(job), plain_losses(engine, job))


def test_a_unets_first_layers_are_run_once_a_sample(engine: DiffusersEngine) -> None:
    """Five candidates on four samples: five passes and one run of the stem, instead of five."""
    share(engine)
    job = job_of(engine, 5, 4)
    assert _stem_passes(engine, lambda: engine.losses(job)) == 1
    assert _stem_passes(engine, lambda: plain_losses(engine, job)) == 5


@pytest.mark.parametrize(("candidates", "samples", "passes"), [(1, 8, 2), (2, 2, 1), (2, 4, 1), (3, 6, 2)])
def test_stems_are_run_where_that_saves_passes(
    engine: DiffusersEngine, candidates: int, samples: int, passes: int
) -> None:
    """One candidate asks each sample once, and few rows fit into one pass anyway."""
    share(engine)
    assert _stem_passes(engine, lambda: engine.losses(job_of(engine, candidates, samples))) == passes


def test_work_beyond_the_bound_is_scored_without(engine: DiffusersEngine) -> None:
    """What is kept is bounded, not what is asked; when work is gone its room is free again."""
    share(engine)
    assert engine.stems is not None
    stem, engine.stems = engine.stems.stem, None
    small, large = job_of(engine, 2, 4), job_of(engine, 2, 8)
    four = sum(output.nbytes for output in stem.outputs(lambda: engine.losses(small)))
    engine.stems = StemKeeper(stem, engine.denoise, most_bytes=four)
    assert np.array_equal(engine.losses(large), plain_losses(engine, large))
    works = [engine.prepare(small) for _ in range(2)]

    def scored() -> None:
        for work in works:
            for at in (0, 4):
                engine.score([Slice(work, at, at + 4)])

    assert _stem_passes(engine, scored) == 1 + 3
    assert all(np.array_equal(engine.result(work), plain_losses(engine, small)) for work in works)
    works.clear()
    gc.collect()
    assert _stem_passes(engine, lambda: engine.losses(small)) == 1


def test_samples_of_several_prompts_keep_their_stems(engine: DiffusersEngine) -> None:
    """Rows are ordered by text, so a candidate's samples come in another order than they were asked in."""
    share(engine)
    job = job_of(engine, 3, 6)
    samples = [s.model_copy(update={"prompt": i % 2}) for i, s in enumerate(job.samples)]
    job = replace(job, prompts=[*job.prompts, f"a photo of {job.placeholder_token}"], samples=samples)
    assert np.array_equal(engine.losses(job), plain_losses(engine, job))


def test_rows_with_and_without_share_a_pass(engine: DiffusersEngine) -> None:
    """Work of one candidate beside work of many: the pass is run whole, and both have the losses they have alone."""
    share(engine)
    one, many = job_of(engine, 1, 2), job_of(engine, 3, 2)
    alone, together = engine.prepare(one), engine.prepare(many)
    engine.score([Slice(alone, 0, 2), Slice(together, 0, 2)])
    engine.score([Slice(together, 2, 6)])
    assert np.array_equal(engine.result(alone), plain_losses(engine, one))
    assert np.array_equal(engine.result(together), plain_losses(engine, many))


def test_two_works_share_a_pass_each_with_its_own_stem(engine: DiffusersEngine) -> None:
    """Rows take the stems of their own samples."""
    share(engine)
    jobs = [job_of(engine, 3, 2), replace(job_of(engine, 3, 2), samples=warm_job(engine, 5).samples[3:])]
    first, second = (engine.prepare(job) for job in jobs)
    for at in (0, 2, 4):
        engine.score([Slice(first, at, at + 2), Slice(second, at, at + 2)])
    assert np.array_equal(engine.result(first), plain_losses(engine, jobs[0]))
    assert np.array_equal(engine.result(second), plain_losses(engine, jobs[1]))


class _Odd(nn.Module):
    """Calls one layer twice before it looks at the text, and has one row for the whole batch and a pair on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.twice, self.late = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.place, self.pair = nn.Embedding(1, 3), _Pair()

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Return (n, 3) of rows (n, 3) and texts (n, 3)."""
        a, b = self.pair(self.twice(self.twice(self.early(x))) + self.place(torch.zeros(1, dtype=torch.long)))
        out: Tensor = self.late(a + b + text)
        return out


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return two of (n, 3)."""
        return self.inner(x), x


@torch.inference_mode()
def test_only_what_is_called_once_and_gives_one_tensor_is_of_the_stem() -> None:
    """Of other modules the parts are; given outputs stand in for them, and then they compute again."""
    torch.manual_seed(0)
    model, x, text = _Odd(), torch.randn(1, 3).expand(4, 3).contiguous(), torch.randn(4, 3)
    stem = Stem.of(model, lambda: model(x, text))
    assert stem is not None
    assert list(stem.modules) == [model.early, model.pair.inner]
    rows = torch.randn(4, 3)
    outputs = stem.outputs(lambda: model(rows, text))
    with stem.given(outputs):
        assert torch.equal(model(rows, text), stem_free := model(rows, text))
        assert torch.equal(model.early(x), outputs[0])
    assert torch.equal(model(rows, text), stem_free)
    assert not torch.equal(model.early(x), outputs[0])


def test_a_pass_of_one_row_tells_nothing(engine: DiffusersEngine, tmp_path: Path) -> None:
    """With nothing to compare with, nothing is shared."""
    assert engine.micro_batch > 1
    alone = DiffusersEngine.load(save_stable_diffusion(tmp_path), device="cpu", micro_batch=1)
    share(alone)
    assert alone.stems is None
    assert alone.branch is None


def test_a_stem_that_changes_losses_is_not_shared(tmp_path: Path) -> None:
    """Warm-up compares, and goes without."""
    engine = RoundingEngine.load(save_stable_diffusion(tmp_path), device="cpu", micro_batch=4)
    engine.warm_up()
    assert engine.stems is None
