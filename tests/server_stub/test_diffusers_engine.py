"""The engine against plain diffusers, on models of a few thousand weights saved and loaded by the real path."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from blackbox_ti.errors import InputError
from blackbox_ti.wire import ImageItem, Sample
from server_stub.diffusers_engine import DiffusersEngine, MicroBatch
from server_stub.engine import ImageJob, LossJob, Slice, SteppedEngine
from server_stub.warm_up import agreeing_passes, places_agree, warm_job
from tests.server_stub.tiny_models import CONTEXT, WIDTH, WORDS, save_stable_diffusion

PLACEHOLDER = "<sks>"
LONG_PROMPT = "a photo of a red dog on a blue dog on a <sks> dog red blue"


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"], name="folder")
def _folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("sd"), prediction_type=request.param)


@pytest.fixture(scope="module", name="engine")
def _engine(folder: Path) -> DiffusersEngine:
    return DiffusersEngine.load(folder, device="cpu")


def _pictures(count: int, size: int = 16) -> list[Image.Image]:
    rng = np.random.default_rng(7)
    return [Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(count)]


def _vectors(candidates: int, count: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    drawn = np.random.default_rng(seed).normal(size=(candidates, count, WIDTH))
    return {"text_encoder": drawn.astype(np.float32)}


def _loss_job(
    engine: DiffusersEngine,
    candidates: int = 3,
    count: int = 2,
    prompts: Sequence[str] = ("a photo of <sks>", "a <sks> dog"),
    n: int = 5,
) -> LossJob:
    latents = engine.encode_images(_pictures(2))
    samples = [Sample(image=i % 2, prompt=i % len(prompts), t=(i + 0.5) / n, seed=100 + i) for i in range(n)]
    return LossJob(latents, PLACEHOLDER, _vectors(candidates, count), list(prompts), samples)


def _image_job(engine: DiffusersEngine, count: int = 2) -> ImageJob:
    items = [ImageItem(candidate=i % 2, prompt=i % 2, seed=i) for i in range(3)]
    prompts = ["a <sks> dog", "a sketch of <sks>"]
    return ImageJob(PLACEHOLDER, _vectors(2, count), prompts, items, 4, 3.0, "blue", 16, 16)


def _plain_pipeline(folder: Path, embedding: NDArray[np.float32], scratch: Path) -> Any:
    """Return plain diffusers with the embedding (T, D) loaded as a user would load it."""
    save_file({PLACEHOLDER: torch.from_numpy(embedding)}, scratch / "learned_embeds.safetensors")
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipe.load_textual_inversion(str(scratch / "learned_embeds.safetensors"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def _plain_loss(pipe: Any, image: Image.Image, prompt: str, t: float, seed: int) -> float:
    """Return the training loss of one sample by plain diffusers."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    latents = pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    timestep = torch.tensor([int(t * 1000)])
    states = pipe.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)[0]
    predicted = pipe.unet(schedule.add_noise(latents, noise, timestep), timestep, states).sample
    velocity = pipe.scheduler.config.prediction_type == "v_prediction"
    target = schedule.get_velocity(latents, noise, timestep) if velocity else noise
    return float(torch.nn.functional.mse_loss(predicted, target))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "prompt",
    ["a photo of <sks>", "<sks>", "x<sks>'s <sks>, red", "a <SKS>'S dog", LONG_PROMPT, "a dog", ""],
)
def test_text_is_encoded_as_plain_textual_inversion_does(folder: Path, tmp_path: Path, prompt: str, count: int) -> None:
    """States equal those of `load_textual_inversion` and `encode_prompt`, truncation and repeats included."""
    engine = DiffusersEngine.load(folder, device="cpu")
    embeddings = _vectors(1, count)
    sample = Sample(image=0, prompt=0, t=0.5, seed=0)
    job = LossJob(engine.encode_images(_pictures(1)), PLACEHOLDER, embeddings, [prompt], [sample])
    with torch.inference_mode():
        ours = engine.prepare(job).inputs(0, 1).conditioning["states"]
    plain = _plain_pipeline(folder, embeddings["text_encoder"][0], tmp_path)
    if count > 1:
        prompt = prompt.lower()  # plain diffusers expands a word of several vectors only as it is spelt
    theirs = plain.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)[0]
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), atol=1e-6)


def test_losses_equal_an_independent_computation(folder: Path, engine: DiffusersEngine, tmp_path: Path) -> None:
    """Every loss is the mean squared error of the training target as plain diffusers computes it."""
    job = _loss_job(engine)
    losses = engine.losses(job)
    assert losses.shape == (3, 5)
    assert losses.dtype == np.float32
    images = _pictures(2)
    for candidate in range(3):
        pipe = _plain_pipeline(folder, job.embeddings["text_encoder"][candidate], tmp_path)
        expected = [_plain_loss(pipe, images[s.image], job.prompts[s.prompt], s.t, s.seed) for s in job.samples]
        np.testing.assert_allclose(losses[candidate], expected, rtol=1e-5)


def test_candidates_and_prompts_move_the_loss(engine: DiffusersEngine) -> None:
    """The placeholder's vectors and the prompt's words reach the denoiser."""
    losses = engine.losses(_loss_job(engine))
    assert len(np.unique(losses)) == losses.size


def test_losses_do_not_depend_on_what_shares_the_batch(engine: DiffusersEngine) -> None:
    """A loss is the same bits alone, in any order, and among any number of candidates."""
    job = _loss_job(engine, candidates=5, n=7)
    together = engine.losses(job)
    for candidate in range(5):
        for index in (0, 6):
            alone = {"text_encoder": job.embeddings["text_encoder"][candidate : candidate + 1]}
            single = LossJob(job.latents, PLACEHOLDER, alone, job.prompts, [job.samples[index]])
            assert engine.losses(single)[0, 0] == together[candidate, index]
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(5), rng.permutation(7)
    shuffled = {"text_encoder": job.embeddings["text_encoder"][rows]}
    permuted = LossJob(job.latents, PLACEHOLDER, shuffled, job.prompts, [job.samples[i] for i in columns])
    np.testing.assert_array_equal(engine.losses(permuted), together[rows][:, columns])


def test_micro_batches_are_shared_by_several_requests(engine: DiffusersEngine) -> None:
    """Rows of different requests in one denoiser pass have the bits they have in passes of their own."""
    first, second = engine.prepare(_loss_job(engine, 1, 1)), engine.prepare(_loss_job(engine, 2, 3, n=2))
    engine.score([Slice(first, 1, 4), Slice(second, 0, 4)])
    scored = np.isfinite(engine.result(first))
    assert scored.sum() == 3
    np.testing.assert_array_equal(engine.result(first)[scored], engine.losses(_loss_job(engine, 1, 1))[scored])
    np.testing.assert_array_equal(engine.result(second), engine.losses(_loss_job(engine, 2, 3, n=2)))


def test_a_candidate_that_overflows_fails_alone(engine: DiffusersEngine) -> None:
    """A vector the model cannot bear costs its own candidate the loss and leaves the others' bits as they are."""
    job = _loss_job(engine)
    expected = engine.losses(job)
    job.embeddings["text_encoder"][1] = np.nan
    losses = engine.losses(job)
    assert np.isnan(losses[1]).all()
    np.testing.assert_array_equal(losses[[0, 2]], expected[[0, 2]])


def test_pictures_equal_plain_diffusers(folder: Path, engine: DiffusersEngine, tmp_path: Path) -> None:
    """The same seed gives the picture plain diffusers makes with the embedding loaded, pixel for pixel."""
    job = _image_job(engine)
    made = engine.images(job)
    for item, picture in zip(job.items, made, strict=True):
        pipe = _plain_pipeline(folder, job.embeddings["text_encoder"][item.candidate], tmp_path)
        theirs = pipe(
            job.prompts[item.prompt],
            negative_prompt="blue",
            num_inference_steps=4,
            guidance_scale=3.0,
            generator=torch.Generator("cpu").manual_seed(item.seed),
        ).images[0]
        np.testing.assert_array_equal(np.array(picture), np.array(theirs))


def test_pictures_do_not_depend_on_their_neighbours(engine: DiffusersEngine) -> None:
    """A picture asked for alone is the picture made among others, and size is honoured."""
    job = _image_job(engine)
    together = engine.images(job)
    alone = ImageJob(PLACEHOLDER, job.embeddings, job.prompts, [job.items[2]], 4, 3.0, "blue", 16, 16)
    assert engine.images(alone)[0].tobytes() == together[2].tobytes()
    larger = ImageJob(PLACEHOLDER, job.embeddings, job.prompts, [job.items[0]], 1, 1.0, "", 32, 24)
    assert engine.images(larger)[0].size == (24, 32)


def test_nothing_touches_the_global_generator(engine: DiffusersEngine) -> None:
    """Losses and pictures draw from their own seeds alone."""
    before = torch.get_rng_state()
    engine.losses(_loss_job(engine))
    engine.images(_image_job(engine))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fingerprint_knows_the_weights(folder: Path) -> None:
    """Loading again gives the same fingerprint; another dtype or one changed weight gives another."""
    engine = DiffusersEngine.load(folder, device="cpu")
    assert DiffusersEngine.load(folder, device="cpu").info.fingerprint == engine.info.fingerprint
    assert DiffusersEngine.load(folder, device="cpu", dtype="bfloat16").info.fingerprint != engine.info.fingerprint
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    with torch.no_grad():
        pipe.unet.conv_in.weight[0, 0, 0, 0] += 1e-3
    assert DiffusersEngine(pipe).info.fingerprint != engine.info.fingerprint


def test_the_card_describes_the_model(folder: Path, engine: DiffusersEngine) -> None:
    """The model card has the encoder's width, the resolution in pixels, and the norm of the token table's rows."""
    info = engine.info
    assert (info.resolution, info.max_prompt_tokens, info.model) == (16, CONTEXT, folder.name)
    assert info.family == "stable-diffusion"
    tokens, embeddings = engine.vocabulary("text_encoder")
    assert embeddings.shape == (len(tokens), WIDTH)
    assert set(tokens) >= {word + "</w>" for word in WORDS}
    assert not any("bti" in token for token in tokens)
    assert info.encoders[0].norm_mean == pytest.approx(np.linalg.norm(embeddings, axis=1).mean(), rel=0.2)


@pytest.mark.parametrize(
    ("word", "taken"),
    [("dog", True), ("DOG", True), ("dog</w>", True), ("<sks>", False), ("red dog", False), ("", False)],
)
def test_a_placeholder_must_not_be_one_token(engine: DiffusersEngine, word: str, taken: bool) -> None:
    """A word is taken if the tokenizer reads it as one token, whatever its case."""
    assert engine.is_token(word) is taken


def test_prompt_tokens_count_the_vectors(engine: DiffusersEngine) -> None:
    """The count includes start and end, a token a vector for each occurrence, and is not cut at the limit."""
    assert engine.prompt_tokens("a photo of <sks>", PLACEHOLDER, 1) == 6
    assert engine.prompt_tokens("<sks> on <sks>", PLACEHOLDER, 4) == 11
    assert engine.prompt_tokens("dog " * 40, PLACEHOLDER, 1) == 42


def test_prompts_are_counted_while_others_are_encoded(engine: DiffusersEngine) -> None:
    """Counting tokens on other threads changes neither the counts nor what the lane encodes."""
    job = _loss_job(engine)
    expected = engine.losses(job)
    with ThreadPoolExecutor(3) as pool:
        counts = [pool.submit(engine.prompt_tokens, "a photo of <sks>", PLACEHOLDER, 1 + i % 3) for i in range(60)]
        taken = [pool.submit(engine.is_token, "dog") for _ in range(60)]
        for _ in range(3):
            np.testing.assert_array_equal(engine.losses(job), expected)
    assert [count.result() for count in counts] == [6 + i % 3 for i in range(60)]
    assert all(each.result() for each in taken)


def test_reserved_tokens_in_a_prompt_are_no_way_in(engine: DiffusersEngine) -> None:
    """A prompt that spells a reserved token means nothing by it."""
    job = _loss_job(engine, prompts=["a <bti:7> <sks> <BTI:<bti:1>1>"])
    assert np.isfinite(engine.losses(job)).all()


@pytest.mark.parametrize("size", [4, "auto"])
def test_warm_up_settles_the_micro_batch(folder: Path, size: MicroBatch) -> None:
    """After warm-up the micro-batch is one whose places agree, and losses are the same but for rounding."""
    engine = DiffusersEngine.load(folder, device="cpu", micro_batch=size)
    before = engine.losses(_loss_job(engine))
    engine.warm_up()
    assert engine.micro_batch in ({1, 2, 4} if size == 4 else {1, 2, 4, 8, 16, 32, 64})
    assert places_agree(engine)
    np.testing.assert_allclose(engine.losses(_loss_job(engine)), before, rtol=1e-5)


def test_few_rows_take_a_smaller_pass_with_the_same_bits(folder: Path) -> None:
    """After warm-up no pass has more rows than the smallest that agrees needs, and losses are those of whole ones."""
    whole, warm = (DiffusersEngine.load(folder, device="cpu", micro_batch=16) for _ in range(2))
    warm.warm_up()
    sizes: list[int] = []
    warm.family.denoiser.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    for rows in (1, 3, 8, 16, 19):
        asked = warm_job(warm, rows)
        np.testing.assert_array_equal(warm.losses(asked), whole.losses(asked))
    allowed = {*agreeing_passes(warm), warm.micro_batch}
    sizes = sizes[:6]
    assert sizes == [min(s for s in allowed if s >= rows) for rows in (1, 3, 8, 16, 16, 3)]


def test_a_micro_batch_whose_places_differ_is_given_up(folder: Path) -> None:
    """Where a row's bits depend on its place, warm-up goes down to a size where they don't."""

    class Uneven(DiffusersEngine):
        def score(self, slices: Sequence[Slice]) -> None:
            super().score(slices)
            if self.micro_batch > 2:
                with torch.inference_mode():
                    slices[0].work.keep(slices[0].start, torch.zeros(1))

    engine = Uneven.load(folder, device="cpu", micro_batch=8)
    engine.warm_up()
    assert engine.micro_batch == 2


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": "float16"}, {"channels_last": True}])
def test_other_precisions_and_layouts_give_nearly_the_same_losses(
    folder: Path, engine: DiffusersEngine, options: dict[str, Any]
) -> None:
    """Half precision and channels-last change the losses by rounding only, and stay invariant to the batch."""
    other = DiffusersEngine.load(folder, device="cpu", **options)
    other.warm_up()
    job = _loss_job(other)
    losses = other.losses(job)
    assert losses.dtype == np.float32
    np.testing.assert_allclose(losses, engine.losses(job), rtol=0.03)
    permuted = LossJob(job.latents, PLACEHOLDER, job.embeddings, job.prompts, job.samples[::-1])
    np.testing.assert_array_equal(other.losses(permuted)[:, ::-1], losses)


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    """A model without safetensors files does not load unless the host says that pickle may be read."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipe.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(InputError, match="safetensors"):
        DiffusersEngine.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "int8"}, "float32"), ({"micro_batch": 0}, "at least one"), ({"resolution": 20}, "multiple of 8")],
)
def test_settings_that_make_no_sense_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    """A setting that cannot work is refused with what would."""
    with pytest.raises(InputError, match=message):
        DiffusersEngine.load(folder, **options)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """Anything but a pipeline of a known family is an input error."""
    with pytest.raises(InputError):
        DiffusersEngine.load(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "OsSystemPipeline", "_diffusers_version": "0.33.0"}')
    with pytest.raises(InputError, match="not served"):
        DiffusersEngine.load(tmp_path)


def test_an_index_imports_nothing_but_the_two_libraries(folder: Path, tmp_path: Path) -> None:
    """A model whose index names a part of any other module is refused before that module is imported."""
    shutil.copytree(folder, tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(
        index.read_text().replace('"diffusers",\n    "AutoencoderKL"', '"antigravity",\n    "Autoencoder"')
    )
    with pytest.raises(InputError, match="antigravity"):
        DiffusersEngine.load(tmp_path / "model")
    assert "antigravity" not in sys.modules


def test_the_engine_keeps_the_contract(engine: DiffusersEngine) -> None:
    """The engine is an `Engine` to the type checker and at run time has its methods."""
    contract: SteppedEngine = engine
    assert contract.info.encoders[0].name == "text_encoder"
