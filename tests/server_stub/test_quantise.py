"""Int8 weights: how far off they are, what is replaced, and what they weigh."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from server_stub.quantise import Int8Conv2d, Int8Linear, int8_weights, quantise


def _layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2), nn.Flatten(), nn.Linear(256, 32))


def _bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32)))
def test_no_weight_is_off_by_more_than_half_a_step(weight: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
    """Values times scale is within half a scale of the weight, and the largest of a row is 127 steps."""
    values, scale = quantise(torch.from_numpy(weight))
    assert values.dtype == torch.int8
    off = (values.double() * scale.double()[:, None] - torch.from_numpy(weight).double()).abs()
    assert (off <= 0.5001 * scale.double()[:, None]).all()
    large = np.abs(weight).max(axis=1) > 1e-30
    assert (values.abs().amax(dim=1).numpy()[large] == 127).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_do_nearly_what_they_did(dtype: torch.dtype) -> None:
    """Linear layers and convolutions, strided and grouped ones too, are off by about a hundredth at most."""
    layers = _layers().to(dtype)
    inputs = torch.randn(5, 8, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        before = layers(inputs).float()
        int8_weights(layers)
        after = layers(inputs)
    assert after.dtype == dtype
    assert 0 < (after.float() - before).norm() / before.norm() < 0.02


def test_what_is_replaced_weighs_a_quarter() -> None:
    """Of float32 weights a quarter remains; bias, tables and norms stay as they are, wherever the layers are."""
    inner = nn.ModuleDict({"body": _layers(), "table": nn.Embedding(5, 4), "norm": nn.LayerNorm(4)})
    bias = inner["body"].get_submodule("2").bias
    before = _bytes(inner["body"])
    int8_weights(inner)
    conv, _, linear = inner["body"].children()
    assert (type(conv), type(linear)) == (Int8Conv2d, Int8Linear)
    assert linear.bias is bias
    assert _bytes(inner["body"]) < 0.3 * before
    assert inner["table"].weight.dtype == inner["norm"].weight.dtype == torch.float32


def test_convolutions_with_another_padding_are_left_alone() -> None:
    """A convolution that pads with anything but zeros keeps its weights."""
    layers = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"))
    int8_weights(layers)
    assert type(layers[0]) is nn.Conv2d
