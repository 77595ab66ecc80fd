"""The exported text encoder is the CLIP's own text tower under other names."""

from __future__ import annotations

from pathlib import Path

import torch

from server_stub.tiny.train.export import text_encoder_of
from server_stub.tiny.train.tokenizer import build_tokenizer
from server_stub.tiny.train.towers import build_towers, tokenize


def test_both_text_encoders_say_the_same(tmp_path: Path) -> None:
    """The last states at the end of the text, projected, are the CLIP's text features."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(tmp_path)
    clip = build_towers(len(tokenizer)).eval()
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.normal_(std=0.05)
        ids = tokenize(tokenizer, ["a red star", "a photo of a blue heart on the grass"])
        states = text_encoder_of(clip, tokenizer)(ids).last_hidden_state
        ends = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
        projected = states[torch.arange(len(ids)), ends] @ clip.text_projection
        torch.testing.assert_close(projected, clip.encode_text(ids), rtol=1e-4, atol=1e-5)
