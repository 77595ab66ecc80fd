"""Stage 1: the autoencoder, 64x64 pictures to 16x16 latents of 8 channels.

The encoder is not trained. It is written down: the principal components of 4x4 patches (98 % of the variance), each
scaled by the root of its spread, so that latents keep a tempered form of their natural variances. A decoder learned
against a fixed encoder converges in minutes where a joint one takes hours, and the denoiser need not wait for it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

from server_stub.tiny.train.data import Pictures, step_rng, to_tensor

__all__ = ["LATENT_CHANNELS", "autoencoder_loss", "build_autoencoder", "encode_all"]

LATENT_CHANNELS = 8
_PATCH = 4
_CONSTANT = 30.0
_LATENT_NOISE = 0.06


def principal_patches(pixels: NDArray[np.uint8], count: int) -> NDArray[np.float64]:
    """Return projections (count, 4, 4, 3) of patches in -1..1: principal components over the root of their spread."""
    x = pixels.astype(np.float64) / 127.5 - 1
    side = x.shape[1] // _PATCH
    patches = x.reshape(-1, side, _PATCH, side, _PATCH, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, _PATCH**2 * 3)
    variance, axes = np.linalg.eigh(np.cov(patches.T))
    variance, axes = variance[::-1][:count], axes[:, ::-1][:, :count]
    axes = axes * np.where(axes.sum(axis=0) < 0, -1, 1)
    return np.asarray((axes / variance**0.25).T.reshape(count, _PATCH, _PATCH, 3))


def build_autoencoder(pixels: NDArray[np.uint8]) -> AutoencoderKL:
    """Return the autoencoder with its encoder written from `pixels` and frozen, its decoder untrained."""
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=1,
        sample_size=64,
    )
    projections = torch.from_numpy(principal_patches(pixels, LATENT_CHANNELS)).float()
    with torch.no_grad():
        _write_encoder(model, projections)
        _start_decoder(model, projections)
    model.encoder.requires_grad_(requires_grad=False)
    model.quant_conv.requires_grad_(requires_grad=False)
    return model


def _zero(*layers: nn.Module) -> None:
    for layer in layers:
        for p in layer.parameters():
            p.zero_()


def _silence_branches(half: nn.Module) -> None:
    """Zero the last layer of every residual branch, so that the half starts as its skip connections."""
    for name, module in half.named_modules():
        if name.endswith((".conv2", ".to_out.0")):
            _zero(module)


def _alternating(count: int) -> Tensor:
    return _CONSTANT * torch.tensor([1.0, -1.0]).repeat(count // 2)


def _write_encoder(model: AutoencoderKL, projections: Tensor) -> None:
    """Write the projections into the encoder.

    Space to depth twice, then each component and its negative: SiLU(x) - SiLU(-x) = x. The other channels carry large
    constants, which make the group norm before the last layer a division by a constant.
    """
    encoder = model.encoder
    _silence_branches(encoder)
    first, second = (encoder.down_blocks[i].downsamplers[0].conv for i in range(2))
    widen = [encoder.down_blocks[i].resnets[0].conv_shortcut for i in (1, 2)]
    _zero(encoder.conv_in, first, second, *widen, encoder.conv_out, model.quant_conv)
    encoder.conv_in.weight[:3, :, 1, 1] = torch.eye(3)
    for dy in range(2):
        for dx in range(2):
            for c in range(3):
                first.weight[(dy * 2 + dx) * 3 + c, c, dy, dx] = 1.0
                for ey in range(2):
                    for ex in range(2):
                        # The component's weight at the pixel that two halvings bring to this tap and channel.
                        weight = projections[:, 2 * dy + ey, 2 * dx + ex, c]
                        second.weight[:LATENT_CHANNELS, (ey * 2 + ex) * 3 + c, dy, dx] = weight
                        second.weight[LATENT_CHANNELS : 2 * LATENT_CHANNELS, (ey * 2 + ex) * 3 + c, dy, dx] = -weight
    for layer in widen:
        n = layer.weight.shape[1]
        layer.weight[:n, :, 0, 0] = torch.eye(n)
    signal = 2 * LATENT_CHANNELS
    second.bias[signal:] = _alternating(len(second.bias) - signal)
    widen[1].bias[32:] = _alternating(32)
    scale = _CONSTANT * ((64 - signal) / 64) ** 0.5
    for i in range(LATENT_CHANNELS):
        encoder.conv_out.weight[i, i, 1, 1], encoder.conv_out.weight[i, LATENT_CHANNELS + i, 1, 1] = scale, -scale
    encoder.conv_out.bias[LATENT_CHANNELS:] = -10.0  # log-variance: the posterior is its mode
    model.quant_conv.weight[:, :, 0, 0] = torch.eye(2 * LATENT_CHANNELS)


def _start_decoder(model: AutoencoderKL, projections: Tensor) -> None:
    """Start the decoder as an enlargement of each patch's mean colour, carried with its negative."""
    decoder = model.decoder
    _silence_branches(decoder)
    _zero(model.post_quant_conv)
    model.post_quant_conv.weight[:, :, 0, 0] = torch.eye(LATENT_CHANNELS)
    flat = projections.reshape(LATENT_CHANNELS, -1)
    mean_colour = torch.linalg.pinv(flat).reshape(_PATCH**2, 3, LATENT_CHANNELS).mean(dim=0)
    carry = torch.cat([mean_colour, -mean_colour])
    _carry(decoder.conv_in, carry)
    for block in decoder.up_blocks:
        shortcut = block.resnets[0].conv_shortcut
        layers = [s for s in (shortcut, *(u.conv for u in block.upsamplers or ())) if s is not None]
        for layer in layers:
            _carry(layer, torch.eye(6, layer.weight.shape[1]))
    _zero(decoder.conv_out)
    for c in range(3):
        decoder.conv_out.weight[c, c, 1, 1], decoder.conv_out.weight[c, 3 + c, 1, 1] = 0.5, -0.5


def _carry(conv: nn.Conv2d, matrix: Tensor) -> None:
    """Let the first rows of a convolution pass channels through `matrix`, the rest as torch drew them."""
    rows, middle = matrix.shape[0], conv.weight.shape[-1] // 2
    conv.weight[:rows] = 0
    conv.weight[:rows, :, middle, middle] = matrix
    assert conv.bias is not None
    conv.bias[:rows] = 0


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def autoencoder_loss(model: AutoencoderKL, pictures: Pictures, seed: int, step: int, batch: int) -> Tensor:
    """Return the loss of one step: pixels, and their differences, so that edges count twice.

    The decoder sees latents with a little noise, as a denoiser will give it.
    """
    rng = step_rng(seed, "autoencoder", step)
    x = to_tensor(pictures.pixels[np.sort(rng.integers(len(pictures), size=batch))]).to(model.device)
    with torch.no_grad():
        latents = model.encode(x).latent_dist.mode()
    noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype="float32")).to(model.device)
    decoded = model.decode((latents + _LATENT_NOISE * noise).to(model.decoder.conv_in.weight.dtype)).sample.float()
    pixels = (decoded - x).abs().mean() + 0.5 * (decoded - x).square().mean()
    edges = sum((a - b).abs().mean() for a, b in zip(_edges(decoded), _edges(x), strict=True))
    loss: Tensor = pixels + edges
    return loss


def encode_all(pictures: Pictures, patch_pictures: int, batch: int = 1000) -> Tensor:
    """Return the latents of all pictures, (n, 8, 16, 16) float16, unscaled.

    The projection that the encoder was written from, applied directly: the encoder's own answer to about 0.002, and a
    hundred times faster.
    """
    projections = principal_patches(pictures.pixels[:patch_pictures], LATENT_CHANNELS)
    kernel = torch.from_numpy(projections).float().permute(0, 3, 1, 2).contiguous()
    chunks = [pictures.pixels[i : i + batch] for i in range(0, len(pictures), batch)]
    return torch.cat([F.conv2d(to_tensor(c), kernel, stride=_PATCH).half() for c in chunks]).contiguous()
