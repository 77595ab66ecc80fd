"""Stage 1: the autoencoder, 64x64 pictures to 8x8 latents of 16 channels."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from server_stub.tiny.train.data import Pictures, step_rng, to_tensor

__all__ = ["LATENT_CHANNELS", "autoencoder_loss", "build_autoencoder", "encode_all"]

LATENT_CHANNELS = 16
_KL_WEIGHT = 2e-4


def build_autoencoder() -> AutoencoderKL:
    """Return the untrained autoencoder (1.0M parameters)."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
    )


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def autoencoder_loss(model: AutoencoderKL, pictures: Pictures, seed: int, step: int, batch: int) -> Tensor:
    """Return the loss of one step: pixels, their differences (edges count twice), and a light pull to the prior."""
    rng = step_rng(seed, "autoencoder", step)
    x = to_tensor(pictures.pixels[rng.integers(len(pictures), size=batch)])
    x = x.to(model.device)
    posterior = model.encode(x.to(model.dtype)).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype="float32")).to(mean.device)
    decoded = model.decode((mean + torch.exp(0.5 * logvar) * noise).to(model.dtype)).sample.float()
    pixels = (decoded - x).abs().mean() + 0.5 * (decoded - x).square().mean()
    edges = sum((a - b).abs().mean() for a, b in zip(_edges(decoded), _edges(x), strict=True))
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return pixels + edges + _KL_WEIGHT * kl


@torch.no_grad()
def encode_all(model: AutoencoderKL, pictures: Pictures, batch: int = 250) -> Tensor:
    """Return the posterior means of all pictures, (n, 16, 8, 8) float32, unscaled."""
    chunks = [pictures.pixels[i : i + batch] for i in range(0, len(pictures), batch)]
    return torch.cat([model.encode(to_tensor(c).to(model.device)).latent_dist.mean.cpu() for c in chunks])
