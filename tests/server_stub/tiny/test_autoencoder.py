"""The encoder that is written down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from server_stub.tiny.train.autoencoder import LATENT_CHANNELS, build_autoencoder, encode_all, principal_patches
from server_stub.tiny.train.data import load_pictures, to_tensor
from tests.server_stub.tiny import PICTURES


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
