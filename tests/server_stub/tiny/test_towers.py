"""The small CLIP's loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from server_stub.tiny.train.data import Pictures
from server_stub.tiny.train.tokenizer import CONTEXT_LENGTH, build_tokenizer
from server_stub.tiny.train.towers import build_towers, tokenize, towers_loss
from server_stub.tiny.world import random_scene, render


def test_the_loss_falls_on_a_few_pictures_and_is_its_seeds(tmp_path: Path) -> None:
    """The same step draws the same batch; a few steps on it lower the loss in both towers."""
    tokenizer = build_tokenizer(tmp_path)
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(24)]
    pictures = Pictures(np.stack([render(s) for s in scenes]), scenes)
    torch.manual_seed(0)
    model = build_towers(len(tokenizer)).eval()
    first, again = (towers_loss(model, tokenizer, pictures, 0, 0, 8) for _ in range(2))
    assert torch.equal(first, again)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(6):
        optimizer.zero_grad()
        loss = towers_loss(model, tokenizer, pictures, 0, 0, 8)
        torch.autograd.backward(loss)
        optimizer.step()
    assert loss < 0.9 * first


def test_texts_are_padded_as_the_pipeline_pads(tmp_path: Path) -> None:
    """Fixed length, the end token to the end."""
    tokenizer = build_tokenizer(tmp_path)
    ids = tokenize(tokenizer, ["a star", "a red star on a blue background"])
    assert ids.shape == (2, CONTEXT_LENGTH)
    assert (ids[:, -1] == tokenizer.eos_token_id).all()
