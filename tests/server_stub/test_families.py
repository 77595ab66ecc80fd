"""Each model family against plain diffusers: text, loss and pictures, on models saved and loaded by the real path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blackbox_ti.wire import ImageItem, Sample
from server_stub.diffusers_engine import DiffusersEngine
from server_stub.engine import ImageJob, LossJob
from tests.server_stub.tiny_models import save_flux, save_stable_diffusion_3, save_stable_diffusion_xl

SIZE = 16
PLACEHOLDER = "<sks>"
PROMPTS = ["a photo of <sks>, red", "<sks>'s dog on a blue <sks>"]


def _save_sd3_without_t5(folder: Path) -> Path:
    return save_stable_diffusion_3(folder, t5=False)


def _save_schnell(folder: Path) -> Path:
    return save_flux(folder, guidance_embeds=False)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sdxl": save_stable_diffusion_xl,
    "sd3": save_stable_diffusion_3,
    "sd3-without-t5": _save_sd3_without_t5,
    "flux-dev": save_flux,
    "flux-schnell": _save_schnell,
}


@pytest.fixture(scope="module", params=list(FAMILIES), name="folder")
def _folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", name="engine")
def _engine(folder: Path) -> DiffusersEngine:
    return DiffusersEngine.load(folder, device="cpu", resolution=SIZE)


def _picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))


def _vectors(engine: DiffusersEngine, candidates: int, count: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    return {e.name: rng.normal(size=(candidates, count, e.dim)).astype(np.float32) for e in engine.info.encoders}


def _loss_job(engine: DiffusersEngine, candidates: int, count: int, n: int = 4) -> LossJob:
    samples = [Sample(image=0, prompt=i % 2, t=(i + 0.5) / n, seed=50 + i) for i in range(n)]
    latents = engine.encode_images([_picture()])
    return LossJob(latents, PLACEHOLDER, _vectors(engine, candidates, count), PROMPTS, samples)


def _plain(folder: Path, embeddings: dict[str, NDArray[np.float32]], candidate: int) -> Any:
    """Return plain diffusers with the word added to each tokenizer and token table, as textual inversion adds it."""
    index = DiffusionPipeline.load_config(folder)
    missing = {name: None for name, value in index.items() if isinstance(value, list) and value[0] is None}
    pipe: Any = DiffusionPipeline.from_pretrained(folder, **missing)
    pipe.set_progress_bar_config(disable=True)
    for name, rows in embeddings.items():
        tokenizer, encoder = getattr(pipe, name.replace("text_encoder", "tokenizer")), getattr(pipe, name)
        words = [PLACEHOLDER, *(f"{PLACEHOLDER}_{i}" for i in range(1, rows.shape[1]))]
        tokenizer.add_tokens(words)
        encoder.resize_token_embeddings(len(tokenizer))
        with torch.no_grad():
            encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(words)] = torch.tensor(
                rows[candidate]
            )
    return pipe


def _spelt(pipe: Any, prompt: str, count: int) -> str:
    """Return the prompt as a user writes it: a word of several vectors is spelt out where the pipeline does not."""
    if hasattr(pipe, "maybe_convert_prompt"):
        return prompt
    words = [PLACEHOLDER, *(f"{PLACEHOLDER}_{i}" for i in range(1, count))]
    return prompt.replace(PLACEHOLDER, " ".join(words))


def _plain_text(pipe: Any, prompt: str) -> tuple[Tensor, Tensor]:
    """Return states and pooled states of the pipeline's own encoding."""
    if type(pipe).__name__ == "FluxPipeline":
        states, pooled, _ = pipe.encode_prompt(prompt, device="cpu")
        return states, pooled
    extra = {} if type(pipe).__name__ == "StableDiffusionXLPipeline" else {"prompt_2": None, "prompt_3": None}
    states, _, pooled, _ = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False, **extra)
    return states, pooled


@torch.no_grad()
def _plain_loss(pipe: Any, prompt: str, t: float, seed: int) -> float:
    """Return the training loss of one sample by plain diffusers."""
    config = pipe.vae.config
    latents = pipe.vae.encode(pipe.image_processor.preprocess(_picture())).latent_dist.mode()
    latents = (latents - (config.shift_factor or 0)) * config.scaling_factor
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    states, pooled = _plain_text(pipe, prompt)
    if type(pipe).__name__ == "StableDiffusionXLPipeline":
        schedule, timestep = DDPMScheduler.from_config(pipe.scheduler.config), torch.tensor([int(t * 1000)])
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]]).float()}
        noisy = schedule.add_noise(latents, noise, timestep)
        return float(F.mse_loss(pipe.unet(noisy, timestep, states, added_cond_kwargs=added).sample, noise))
    sigma = torch.tensor([(int(t * 1000) + 1) / 1000])
    if not pipe.scheduler.config.use_dynamic_shifting:
        sigma = 3 * sigma / (1 + 2 * sigma)
    noisy, velocity = (1 - sigma) * latents + sigma * noise, noise - latents
    if type(pipe).__name__ == "StableDiffusion3Pipeline":
        predicted = pipe.transformer(noisy, states, pooled, sigma * 1000).sample
        return float(F.mse_loss(predicted, velocity))
    predicted = pipe.transformer(
        pipe._pack_latents(noisy, 1, 4, 8, 8),
        encoder_hidden_states=states,
        pooled_projections=pooled,
        timestep=sigma,
        guidance=torch.tensor([3.5]) if pipe.transformer.config.guidance_embeds else None,
        img_ids=pipe._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32),
        txt_ids=torch.zeros(512, 3),
    ).sample
    return float(F.mse_loss(predicted, pipe._pack_latents(velocity, 1, 4, 8, 8)))


@pytest.mark.parametrize("count", [1, 2])
def test_text_is_encoded_as_plain_textual_inversion_does(folder: Path, engine: DiffusersEngine, count: int) -> None:
    """States and pooled states equal those of the pipeline whose encoders all learned the word."""
    job = _loss_job(engine, 1, count)
    with torch.inference_mode():
        ours = engine.prepare(job).inputs(0, 4).conditioning
    pipe = _plain(folder, dict(job.embeddings), 0)
    for row, prompt in ((0, PROMPTS[0]), (2, PROMPTS[1])):
        with torch.no_grad():
            states, pooled = _plain_text(pipe, _spelt(pipe, prompt, count))
        np.testing.assert_allclose(ours["states"][row], states[0].numpy(), atol=2e-6)
        np.testing.assert_allclose(ours["pooled"][row], pooled[0].numpy(), atol=2e-6)


def test_losses_equal_an_independent_computation(folder: Path, engine: DiffusersEngine) -> None:
    """Every loss is the mean squared error of the family's training target as plain diffusers computes it."""
    job = _loss_job(engine, 2, 2)
    losses = engine.losses(job)
    for candidate in range(2):
        pipe = _plain(folder, dict(job.embeddings), candidate)
        expected = [_plain_loss(pipe, _spelt(pipe, PROMPTS[s.prompt], 2), s.t, s.seed) for s in job.samples]
        np.testing.assert_allclose(losses[candidate], expected, rtol=2e-5)


def test_every_encoder_moves_the_loss(engine: DiffusersEngine) -> None:
    """A change of one encoder's vectors alone changes the loss."""
    job = _loss_job(engine, 1, 1)
    before = engine.losses(job)
    for name in job.embeddings:
        changed = {key: -value if key == name else value for key, value in job.embeddings.items()}
        after = engine.losses(LossJob(job.latents, PLACEHOLDER, changed, job.prompts, job.samples))
        assert (abs(after - before) > 1e-5).any()


def test_losses_do_not_depend_on_what_shares_the_batch(engine: DiffusersEngine) -> None:
    """A loss is the same bits alone, in any order, and among any number of candidates."""
    job = _loss_job(engine, 3, 2)
    together = engine.losses(job)
    alone = {name: rows[2:] for name, rows in job.embeddings.items()}
    single = LossJob(job.latents, PLACEHOLDER, alone, job.prompts, [job.samples[1]])
    assert engine.losses(single)[0, 0] == together[2, 1]
    turned = {name: rows[[2, 0, 1]] for name, rows in job.embeddings.items()}
    permuted = LossJob(job.latents, PLACEHOLDER, turned, job.prompts, job.samples[::-1])
    np.testing.assert_array_equal(engine.losses(permuted), together[[2, 0, 1]][:, ::-1])


def test_pictures_equal_plain_diffusers(folder: Path, engine: DiffusersEngine) -> None:
    """The same seed gives the picture plain diffusers makes with the word learned, pixel for pixel."""
    embeddings = _vectors(engine, 1, 2)
    item = ImageItem(candidate=0, prompt=1, seed=9)
    made = engine.images(ImageJob(PLACEHOLDER, embeddings, PROMPTS, [item], 2, 3.0, "", SIZE, SIZE))[0]
    pipe = _plain(folder, embeddings, 0)
    theirs = pipe(
        _spelt(pipe, PROMPTS[1], 2),
        num_inference_steps=2,
        guidance_scale=3.0,
        height=SIZE,
        width=SIZE,
        generator=torch.Generator("cpu").manual_seed(9),
    ).images[0]
    np.testing.assert_array_equal(np.array(made), np.array(theirs))


def test_the_card_names_family_and_target(engine: DiffusersEngine) -> None:
    """Family and prediction type are the model's own, and the resolution is the one asked for."""
    info = engine.info
    target = "epsilon" if info.family == "stable-diffusion-xl" else "flow_prediction"
    assert info.family in {"stable-diffusion-xl", "stable-diffusion-3", "flux"}
    assert (info.prediction_type, info.resolution) == (target, SIZE)
