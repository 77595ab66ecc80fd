"""The training, at a thousandth of its length: every stage, its resumption, and what it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from server_stub.tiny.train.autoencoder import LATENT_CHANNELS, build_autoencoder, encode_all, principal_patches
from server_stub.tiny.train.data import load_pictures, step_rng, to_tensor
from server_stub.tiny.train.loop import StageSettings, Trainer, one_cycle
from server_stub.tiny.train.stages import Run
from server_stub.tiny.train.tokenizer import build_tokenizer
from server_stub.tiny.world import vocabulary

PICTURES = 96


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a few pictures."""
    folder = tmp_path_factory.mktemp("work")
    load_pictures(folder, 0, PICTURES)
    return folder


def test_every_word_is_one_token(tmp_path: Path) -> None:
    """The tokenizer keeps the world's words whole, and breaks others into bytes."""
    tokenizer = build_tokenizer(tmp_path)
    assert all(len(tokenizer(w)["input_ids"]) == 3 for w in vocabulary())
    assert len(tokenizer("zyzzyva")["input_ids"]) > 3
    assert tokenizer.eos_token_id == len(tokenizer) - 1


def test_pictures_are_rendered_once(work: Path) -> None:
    """The second time they are read; they are the same as fresh ones."""
    again = load_pictures(work, 0, PICTURES)
    assert again.pixels.shape == (PICTURES, 64, 64, 3)
    indices, captions = again.batch(step_rng(0, "x", 1), 8)
    assert len(indices) == len(captions) == 8
    assert to_tensor(again.pixels[:2]).abs().max() <= 1


def test_the_encoder_is_the_projection_it_was_written_from(work: Path) -> None:
    """Through convolutions, group norm and SiLU, latents equal the principal components."""
    pictures = load_pictures(work, 0, PICTURES)
    model = build_autoencoder(pictures.pixels[:64])
    with torch.no_grad():
        latents = model.encode(to_tensor(pictures.pixels[:8])).latent_dist.mode()
    direct = encode_all(pictures, 64)[:8].float()
    assert latents.shape == (8, LATENT_CHANNELS, 16, 16)
    assert (latents - direct).abs().max() < 0.01
    assert not any(p.requires_grad for p in model.encoder.parameters())


def test_principal_patches_keep_most_of_the_variance(work: Path) -> None:
    """Eight numbers a patch give back its pixels to within a few hundredths of their variance."""
    pixels = load_pictures(work, 0, PICTURES).pixels
    flat = principal_patches(np.asarray(pixels), LATENT_CHANNELS).reshape(LATENT_CHANNELS, -1)
    x = pixels.astype(np.float64) / 127.5 - 1
    patches = x.reshape(-1, 16, 4, 16, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 48)
    patches = patches - patches.mean(axis=0)
    back = patches @ flat.T @ np.linalg.pinv(flat).T
    assert ((patches - back) ** 2).mean() < 0.04 * patches.var()


def test_interrupted_training_ends_in_the_same_weights(tmp_path: Path) -> None:
    """Stopped and resumed, or in one go: the same bits."""
    settings = StageSettings(steps=6, batch=4, lr=0.01, save_every=3)

    def loss_of(trainer: Trainer, step: int) -> torch.Tensor:
        x = torch.from_numpy(step_rng(0, "s", step).standard_normal((4, 3)).astype(np.float32))
        loss: torch.Tensor = (trainer.model(x) - 1).square().mean()
        return loss

    def fresh(name: str) -> Trainer:
        torch.manual_seed(0)
        return Trainer(torch.nn.Linear(3, 2), settings, tmp_path / name, device="cpu", dtype=torch.float32)

    whole = fresh("whole.safetensors")
    whole.run(lambda step: loss_of(whole, step))
    first = fresh("parts.safetensors")

    def until_three(step: int) -> torch.Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return loss_of(first, step)

    with pytest.raises(KeyboardInterrupt):
        first.run(until_three)
    second = fresh("parts.safetensors")
    assert second.step == 3
    second.run(lambda step: loss_of(second, step))
    assert all(torch.equal(a, b) for a, b in zip(whole.average, second.average, strict=True))


def test_the_learning_rate_rises_then_falls() -> None:
    """One cycle: low at both ends, its peak after the warm-up."""
    settings = StageSettings(steps=100, batch=1, lr=1.0, warmup=0.1)
    rates = [one_cycle(step, settings) for step in range(101)]
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 10
    assert rates[0] < 0.1
    assert rates[-1] < 0.02


def test_every_stage_runs_and_the_export_loads_as_any_pipeline(work: Path, tmp_path: Path) -> None:
    """A few steps of each stage, then plain diffusers and open_clip load what was written."""
    import open_clip
    from diffusers import StableDiffusionPipeline

    run = Run(work, tmp_path, 0, "cpu", PICTURES, scale=1e-4)
    for stage in ("autoencoder", "towers", "eyes", "denoiser", "export"):
        getattr(run, stage)()
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    picture = pipeline("a red star", num_inference_steps=2, generator=generator).images[0]
    assert picture.size == (64, 64)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'clip'}")
    table = load_file(tmp_path / "pipeline/text_encoder/model.safetensors")
    key = next(k for k in table if k.endswith("token_embedding.weight"))
    assert torch.equal(model.state_dict()["token_embedding.weight"], table[key])
