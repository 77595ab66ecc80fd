"""The stages of training in their order, each from the checkpoints of those before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from open_clip.model import CLIP
from torch import Tensor
from transformers import CLIPTokenizer

from server_stub.tiny.train.autoencoder import autoencoder_loss, build_autoencoder, encode_all
from server_stub.tiny.train.data import Pictures, load_pictures, step_rng
from server_stub.tiny.train.denoiser import build_denoiser, build_scheduler, denoiser_loss
from server_stub.tiny.train.loop import StageSettings, Trainer
from server_stub.tiny.train.tokenizer import build_tokenizer
from server_stub.tiny.train.towers import build_towers, tokenize, towers_loss

__all__ = ["SETTINGS", "Run"]

SETTINGS = {
    "autoencoder": StageSettings(steps=2800, batch=16, lr=1.5e-3, weight_decay=0.0),
    "towers": StageSettings(steps=2600, batch=128, lr=1e-3, weight_decay=0.05),
    "eyes": StageSettings(steps=2200, batch=128, lr=4e-4, weight_decay=0.05, ema=0.995),
    "denoiser": StageSettings(steps=18_800, batch=64, lr=1e-3, ema=0.999),
    "finish": StageSettings(steps=10_500, batch=64, lr=6e-4, ema=0.998, warmup=0.02),
}
_UNCONDITIONAL_SHARE = 0.1
_PATCH_PICTURES = 3000


@dataclass
class Run:
    """One rebuilding of the model: where its files are, its seed, its device."""

    work: Path
    out: Path
    seed: int
    device: str
    picture_count: int
    scale: float = 1.0
    compiled: bool = False

    @cached_property
    def pictures(self) -> Pictures:
        """The training pictures."""
        return load_pictures(self.work, self.seed, self.picture_count)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer, built again each time: it depends on the words alone."""
        return build_tokenizer(self.work / "tokenizer")

    def _trainer(self, stage: str, model: Any, dtype: torch.dtype) -> Trainer:
        settings = replace(SETTINGS[stage], steps=max(1, round(SETTINGS[stage].steps * self.scale)))
        return Trainer(model, settings, self.work / f"{stage}.safetensors", device=self.device, dtype=dtype)

    def _fresh(self, stage: str) -> None:
        """Seed the initial weights of a stage: torch's modules draw them from its global generator."""
        torch.manual_seed(int(step_rng(self.seed, stage, 0).integers(2**31)))

    def _untrained_autoencoder(self) -> AutoencoderKL:
        return build_autoencoder(self.pictures.pixels[:_PATCH_PICTURES])

    def autoencoder(self) -> None:
        """Train stage 1."""
        self._fresh("autoencoder")
        trainer = self._trainer("autoencoder", self._untrained_autoencoder(), torch.bfloat16)
        batch = trainer.settings.batch
        trainer.run(lambda step: autoencoder_loss(trainer.model, self.pictures, self.seed, step, batch))

    def towers(self) -> None:
        """Train stage 2."""
        self._fresh("towers")
        trainer = self._trainer("towers", build_towers(len(self.tokenizer)), torch.float32)
        trainer.model.train()
        batch = trainer.settings.batch
        trainer.run(lambda step: towers_loss(trainer.model, self.tokenizer, self.pictures, self.seed, step, batch))

    def eyes(self) -> None:
        """Train the image tower on, alone, on other pictures: the denoiser needs the text tower to stay as it is."""
        pictures = load_pictures(self.work, self.seed + 1, self.picture_count)
        trainer = self._trainer("eyes", self._frozen_text(), torch.float32)
        trainer.model.train()
        batch = trainer.settings.batch
        trainer.run(lambda step: towers_loss(trainer.model, self.tokenizer, pictures, self.seed + 1, step, batch))

    def _frozen_text(self) -> CLIP:
        clip = self.trained_towers()
        clip.visual.requires_grad_(requires_grad=True)
        return clip

    def denoiser(self) -> None:
        """Train stage 3 on the latents of stage 1 under the text tower of stage 2."""
        self._fresh("denoiser")
        self._denoise("denoiser", build_denoiser())

    def finish(self) -> None:
        """Train the denoiser on with every timestep counted alike and half of the captions whole."""
        self._denoise("finish", self._averaged("denoiser"), weighted=False, whole=0.5)

    def _denoise(self, stage: str, model: UNet2DConditionModel, *, weighted: bool = True, whole: float = 0.0) -> None:
        latents, scaling = self._latents()
        clip = self.trained_towers().to(self.device)
        scheduler = build_scheduler()
        trainer = self._trainer(stage, model, torch.bfloat16)
        if self.compiled:
            trainer.model.compile()
        batch = trainer.settings.batch

        def loss(step: int) -> Tensor:
            rng = step_rng(self.seed, stage, step)
            indices, captions = self.pictures.batch(rng, batch, whole=whole)
            captions = ["" if rng.random() < _UNCONDITIONAL_SHARE else c for c in captions]
            noise = torch.from_numpy(rng.standard_normal((batch, *latents.shape[1:]), dtype="float32"))
            timestep = torch.from_numpy(rng.integers(0, 1000, batch))
            x = latents[torch.from_numpy(indices)].float() * scaling
            text = hidden_states(clip, tokenize(self.tokenizer, captions).to(self.device))
            to = [t.to(self.device) for t in (x, text, noise, timestep)]
            return denoiser_loss(trainer.model, scheduler, *to, weighted=weighted)

        trainer.run(loss)

    def export(self) -> None:
        """Write the finished weights to `out`."""
        from server_stub.tiny.train.export import export

        export(self)

    def trained_autoencoder(self) -> AutoencoderKL:
        """Return stage 1's result in float32, its scaling factor set."""
        model = self._trainer("autoencoder", self._untrained_autoencoder(), torch.float32).averaged()
        path = self.work / "latents.safetensors"
        if path.exists():
            model.register_to_config(scaling_factor=round(float(self._latents()[1]), 6))
        return model

    def trained_towers(self) -> CLIP:
        """Return stage 2's result in float32, every weight one that float16 can hold."""
        model = self._trainer("towers", build_towers(len(self.tokenizer)), torch.float32).averaged()
        for p in model.parameters():
            p.data = p.data.half().float()
        return model.requires_grad_(requires_grad=False)

    def finished_clip(self) -> CLIP:
        """Return the CLIP with stage 2's text tower and the image tower trained on, as float16 can hold it."""
        model: CLIP = self._trainer("eyes", self._frozen_text(), torch.float32).averaged()
        for p in model.parameters():
            p.data = p.data.half().float()
        return model.requires_grad_(requires_grad=False)

    def trained_denoiser(self) -> UNet2DConditionModel:
        """Return the finished denoiser in float32."""
        return self._averaged("finish")

    def _averaged(self, stage: str) -> UNet2DConditionModel:
        model: UNet2DConditionModel = self._trainer(stage, build_denoiser(), torch.float32).averaged()
        return model

    def _latents(self) -> tuple[Tensor, float]:
        """Return the latents of all pictures (float16) and the factor that gives them unit variance."""
        from safetensors.torch import load_file, save_file

        path = self.work / "latents.safetensors"
        if not path.exists():
            save_file({"latents": encode_all(self.pictures, _PATCH_PICTURES)}, path)
        latents = load_file(path)["latents"]
        return latents, 1.0 / float(latents[:4000].float().std())


@torch.no_grad()
def hidden_states(clip: CLIP, ids: Tensor) -> Tensor:
    """Return the text tower's states after its last norm, (n, L, 256): what the denoiser attends to."""
    with torch.autocast(ids.device.type, torch.bfloat16):
        x = clip.token_embedding(ids) + clip.positional_embedding
        states: Tensor = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))
    return states
