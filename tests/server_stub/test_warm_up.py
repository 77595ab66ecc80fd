"""What an engine finds out about itself: sizes that are too much for it, and rows whose place matters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from server_stub.diffusers_engine import DiffusersEngine
from server_stub.engine import Slice
from server_stub.warm_up import agreeing_passes, measured_micro_batch, places_agree, warm_job, warm_pictures
from tests.server_stub.tiny_models import save_stable_diffusion


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("sd"))


class _Small(DiffusersEngine):
    """A device whose memory holds passes of `most` rows."""

    most = 4

    def score(self, slices: Sequence[Slice]) -> None:
        if self.micro_batch > self.most:
            raise RuntimeError("out of memory")
        super().score(slices)


class _Placed(DiffusersEngine):
    """A device on which the last row's loss is off by its last bit."""

    def score(self, slices: Sequence[Slice]) -> None:
        super().score(slices)
        last = slices[-1]
        if last.stop - slices[0].start == self.micro_batch > 1:
            with torch.inference_mode():
                losses = torch.from_numpy(last.work.result()).flatten()
                last.work.keep(last.stop - 1, torch.nextafter(losses[-1:], torch.tensor([2.0])))


class _Graded(DiffusersEngine):
    """A device on which passes of fewer than four rows are off by the last bit."""

    def score(self, slices: Sequence[Slice]) -> None:
        super().score(slices)
        if self.micro_batch < 4:
            one = slices[0]
            with torch.inference_mode():
                losses = torch.from_numpy(one.work.result()).flatten()[one.start : one.stop]
                one.work.keep(one.start, torch.nextafter(losses, torch.full_like(losses, 2.0)))


def test_a_warm_job_is_what_a_client_might_ask(folder: Path) -> None:
    """It has a row a sample, all samples differ, and all losses are finite."""
    engine = DiffusersEngine.load(folder, device="cpu")
    losses = engine.losses(warm_job(engine, 5))
    assert losses.shape == (1, 5)
    assert len(np.unique(losses)) == 5


def test_sizes_beyond_memory_are_not_chosen(folder: Path) -> None:
    """Where larger passes fail the choice stays below them, and where all fail it is one row."""
    engine = _Small.load(folder, device="cpu")
    assert measured_micro_batch(engine) <= 4
    engine.most = 0
    assert measured_micro_batch(engine) == 1


def test_one_bit_is_enough_to_disagree(folder: Path) -> None:
    """Places agree in an engine as it is, and a difference of the last bit in one place is found."""
    assert places_agree(DiffusersEngine.load(folder, device="cpu", micro_batch=4))
    assert not places_agree(_Placed.load(folder, device="cpu", micro_batch=4))


def test_smaller_passes_are_used_as_far_as_their_bits_agree(folder: Path) -> None:
    """Of halves and quarters those whose losses differ by the last bit are left out, and all below them."""
    engine = _Graded.load(folder, device="cpu", micro_batch=16)
    assert set(agreeing_passes(engine)) <= {8, 4}
    assert engine.micro_batch == 16


def test_warming_pictures_runs_the_whole_pipeline(folder: Path) -> None:
    """Denoiser and decoder have both run once the pictures are warm."""
    engine = DiffusersEngine.load(folder, device="cpu")
    seen: list[str] = []
    for part in ("unet", "vae.decoder", "text_encoder"):
        engine.pipe.components[part.split(".", maxsplit=1)[0]].get_submodule(
            part.partition(".")[2]
        ).register_forward_hook(lambda *_, part=part: seen.append(part))
    warm_pictures(engine)
    assert set(seen) == {"unet", "vae.decoder", "text_encoder"}
