"""The denoiser's loss."""

from __future__ import annotations

import torch

from server_stub.tiny.train.denoiser import build_denoiser, build_scheduler, denoiser_loss


def test_the_weight_is_min_snr_for_v_prediction() -> None:
    """A model that answers zero pays the weighted mean square of the velocity, min(SNR, 5) / (SNR + 1); or the plain one."""
    torch.manual_seed(0)
    model, scheduler = build_denoiser(), build_scheduler()
    for p in model.conv_out.parameters():
        p.data.zero_()
    latents, noise = torch.randn(2, 3, 8, 16, 16).unbind()
    timestep, text = torch.tensor([10, 500, 900]), torch.randn(3, 32, 256)
    loss = denoiser_loss(model, scheduler, latents, text, noise, timestep)
    alpha = scheduler.alphas_cumprod[timestep]
    velocity = alpha.sqrt()[:, None, None, None] * noise - (1 - alpha).sqrt()[:, None, None, None] * latents
    snr = alpha / (1 - alpha)
    weight = torch.minimum(snr, torch.tensor(5.0)) / (snr + 1)
    assert torch.allclose(loss, (weight * velocity.square().mean(dim=(1, 2, 3))).mean(), rtol=1e-4)
    plain = denoiser_loss(model, scheduler, latents, text, noise, timestep, weighted=False)
    assert torch.allclose(plain, velocity.square().mean(), rtol=1e-4)
