"""The tokenizer."""

from __future__ import annotations

from pathlib import Path

from server_stub.tiny.train.tokenizer import build_tokenizer
from server_stub.tiny.world import vocabulary


def test_every_word_is_one_token(tmp_path: Path) -> None:
    """The tokenizer keeps the world's words whole, and breaks others into bytes."""
    tokenizer = build_tokenizer(tmp_path)
    assert all(len(tokenizer(w)["input_ids"]) == 3 for w in vocabulary())
    assert len(tokenizer("zyzzyva")["input_ids"]) > 3
    assert tokenizer.eos_token_id == len(tokenizer) - 1
