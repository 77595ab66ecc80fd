"""The forms a model may take: which are refused, and that a loss is the same bits whatever shares its batch in each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.errors import InputError
from blackbox_ti.wire import ImageItem, Sample
from server_stub.diffusers_engine import DiffusersEngine
from server_stub.engine import ImageJob, LossJob
from server_stub.placement import Placement, compiled, pick_device
from tests.server_stub.tiny_models import save_flux, save_stable_diffusion, save_stable_diffusion_xl

PROMPTS = ["a photo of <sks>", "a sketch of <sks>"]
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("sd"))


def _job(engine: DiffusersEngine, candidates: int = 5, samples: int = 7) -> LossJob:
    rng = np.random.default_rng(5)
    side = engine.info.resolution
    picture = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    vectors = {e.name: rng.normal(size=(candidates, 2, e.dim)).astype(np.float32) for e in engine.info.encoders}
    bank = [Sample(image=0, prompt=i % 2, t=(i + 0.5) / samples, seed=i) for i in range(samples)]
    return LossJob(engine.encode_images([picture]), "<sks>", vectors, PROMPTS, bank)


def _invariant(engine: DiffusersEngine) -> NDArray[np.float32]:
    """Return a job's losses, which are the same bits in another order and alone."""
    job = _job(engine)
    together = engine.losses(job)
    assert np.isfinite(together).all()
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(5), rng.permutation(7)
    turned = {name: vectors[rows] for name, vectors in job.embeddings.items()}
    permuted = LossJob(job.latents, "<sks>", turned, PROMPTS, [job.samples[i] for i in columns])
    np.testing.assert_array_equal(engine.losses(permuted), together[rows][:, columns])
    alone = {name: vectors[3:4] for name, vectors in job.embeddings.items()}
    single = LossJob(job.latents, "<sks>", alone, PROMPTS, [job.samples[6]])
    assert engine.losses(single)[0, 0] == together[3, 6]
    return together


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"dtype": "int4"}, "float32, bfloat16, float16"),
        ({"device": "abacus"}, "use auto, cpu, cuda, mps"),
        ({"device": "meta"}, "use auto, cpu, cuda, mps"),
        ({"device": "cpu", "cuda_graphs": True}, "use --compile without them"),
        ({"device": "cpu", "offload": True}, "leave --offload out"),
        pytest.param({"device": "cuda"}, "use --device auto", marks=without_cuda),
        pytest.param({"device": "cuda:7"}, "use --device auto", marks=without_cuda),
    ],
)
def test_what_does_not_go_together_is_refused(form: dict[str, Any], message: str) -> None:
    """A form that cannot be is an input error that says what to do, before any weight is read."""
    with pytest.raises(InputError, match=message):
        Placement(**form).resolved()
    with pytest.raises(InputError, match=message):
        DiffusersEngine.load("no/such/folder", **form)


def test_auto_is_a_device_of_this_machine() -> None:
    """`auto` ends in a device that tensors can be made on, and a resolved placement stays as it is."""
    placement = Placement().resolved()
    assert torch.zeros(1, device=placement.device).device.type == placement.device == pick_device("auto")
    assert placement.resolved() == placement


def test_nothing_is_compiled_unasked() -> None:
    """Without `compile` a function comes back as it went in."""
    assert compiled(torch.sin, Placement()) is torch.sin


def test_a_revision_is_of_a_hub_id(folder: Path) -> None:
    """A revision of a model on this machine is refused: there is none to choose from."""
    for model in ("tiny", folder):
        with pytest.raises(InputError, match="leave it out"):
            DiffusersEngine.load(model, revision="main")


@pytest.mark.parametrize(
    ("save", "dtype"),
    [
        (save_stable_diffusion, "float32"),
        (save_stable_diffusion, "float16"),
        (save_stable_diffusion_xl, "bfloat16"),
        (save_flux, "bfloat16"),
    ],
)
def test_int8_stays_near_and_invariant(tmp_path: Path, save: Any, dtype: str) -> None:
    """Int8 weights change losses by a few hundredths, make another fingerprint, and keep the batch invariance."""
    folder = save(tmp_path)
    plain = DiffusersEngine.load(folder, device="cpu", dtype=dtype, resolution=16)
    engine = DiffusersEngine.load(folder, device="cpu", dtype=dtype, resolution=16, int8=True)
    engine.warm_up()
    losses = _invariant(engine)
    np.testing.assert_allclose(losses, plain.losses(_job(plain)), rtol=0.05)
    assert (losses != plain.losses(_job(plain))).any()
    assert engine.info.fingerprint != plain.info.fingerprint


def test_int8_draws_nearly_the_same_pictures(folder: Path) -> None:
    """A model in int8 still makes pictures, a few levels off at most on average."""
    drawn = []
    for int8 in (False, True):
        engine = DiffusersEngine.load(folder, device="cpu", int8=int8)
        vectors = _job(engine, candidates=1).embeddings
        item = ImageItem(candidate=0, prompt=0, seed=4)
        drawn.append(np.array(engine.images(ImageJob("<sks>", vectors, PROMPTS, [item], 3, 3.0, "", 16, 16))[0], int))
    assert 0 < np.abs(drawn[0] - drawn[1]).mean() < 8


@pytest.mark.slow
@pytest.mark.parametrize("form", [{}, {"dtype": "bfloat16"}, {"int8": True}, {"channels_last": True}])
def test_compiled_losses_stay_near_and_invariant(folder: Path, form: dict[str, Any]) -> None:
    """A compiled denoiser changes losses by rounding only, on the CPU too, and keeps the batch invariance."""
    plain = DiffusersEngine.load(folder, device="cpu", micro_batch=4, **form)
    engine = DiffusersEngine.load(folder, device="cpu", micro_batch=4, compile=True, **form)
    engine.warm_up()
    losses = _invariant(engine)
    rtol = 0.03 if form.get("dtype") else 1e-4
    np.testing.assert_allclose(losses, plain.losses(_job(plain)), rtol=rtol)
    assert engine.info.fingerprint == plain.info.fingerprint


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "form", [{}, {"channels_last": True}, {"int8": True}, {"compile": True}, {"cuda_graphs": True}]
)
def test_losses_on_cuda_stay_near_and_invariant(folder: Path, form: dict[str, Any], dtype: str) -> None:
    """On a CUDA device each form gives the CPU's losses to rounding, and keeps the batch invariance."""
    engine = DiffusersEngine.load(folder, device="cuda", dtype=dtype, micro_batch=4, **form)
    engine.warm_up()
    plain = DiffusersEngine.load(folder, device="cpu")
    np.testing.assert_allclose(_invariant(engine), plain.losses(_job(plain)), rtol=0.05)


@pytest.mark.gpu
def test_offloaded_parts_come_and_go(tmp_path: Path) -> None:
    """An offloaded model gives the same losses, and only what worked last is on the GPU."""
    folder = save_stable_diffusion_xl(tmp_path)
    whole = DiffusersEngine.load(folder, device="cuda", resolution=16)
    engine = DiffusersEngine.load(folder, device="cuda", resolution=16, offload=True)
    engine.warm_up()
    np.testing.assert_allclose(_invariant(engine), whole.losses(_job(whole)), rtol=1e-4)
    assert engine.pipe.vae.device.type == engine.pipe.text_encoder.device.type == "cpu"
    assert engine.pipe.unet.device.type == "cuda"
