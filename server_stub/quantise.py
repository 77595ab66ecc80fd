"""Weight-only int8: linear and convolution weights in a quarter of float32's memory, activations as they were.

Libraries for this leave convolutions alone, which hold two thirds of Stable Diffusion 1.5's denoiser.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Int8Conv2d", "Int8Linear", "int8_weights", "quantise"]

_LEVELS: Final = 127


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 values of `weight` (rows, ...) and a scale a row (rows), so that weight is about values * scale.

    Symmetric and by the largest of the row, as LLM.int8() quantises vector-wise (arXiv 2208.07339).
    """
    rows = weight.detach().float().flatten(1)
    scale = rows.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / _LEVELS
    values = (rows / scale[:, None]).round().clamp(-_LEVELS, _LEVELS).to(torch.int8)
    return values.reshape(weight.shape), scale.to(weight.dtype)


class _Int8(nn.Module):
    """A layer whose `weight` is int8; every such value is exact in any float type, so scales come after the product."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        values, scale = quantise(weight)
        self.register_buffer("weight", values)
        self.register_buffer("scale", scale)
        self.bias = bias

    def _scaled(self, product: Tensor, extent: tuple[int, ...]) -> Tensor:
        product = product * self.scale.reshape(extent)
        return product if self.bias is None else product + self.bias.reshape(extent)


class Int8Linear(_Int8):
    """`nn.Linear` with int8 weights, and the extent that pipelines read off it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.weight, layer.bias)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name it has in `nn.Linear`
        """Return the product (..., out)."""
        return self._scaled(F.linear(input, self.weight.to(input.dtype)), (-1,))


class Int8Conv2d(_Int8):
    """`nn.Conv2d`, padded with zeros, with int8 weights, and the extent that pipelines read off it."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer.weight, layer.bias)
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self._geometry: tuple[Any, ...] = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name it has in `nn.Conv2d`
        """Return the convolution (n, out, h, w)."""
        return self._scaled(F.conv2d(input, self.weight.to(input.dtype), None, *self._geometry), (-1, 1, 1))


def int8_weights(module: nn.Module) -> None:
    """Replace the linear and zero-padded convolution layers inside `module` by ones with int8 weights, in place."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, Int8Linear(child))
        elif type(child) is nn.Conv2d and child.padding_mode == "zeros":
            setattr(module, name, Int8Conv2d(child))
        else:
            int8_weights(child)
