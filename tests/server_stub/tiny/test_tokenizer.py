"""The tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from server_stub.tiny import CLIP_DIR, PIPELINE_DIR
from server_stub.tiny.train import tokenizer as tokenizer_module
from server_stub.tiny.train.tokenizer import build_tokenizer, learn_merges
from server_stub.tiny.world import vocabulary


def test_every_word_is_one_token(tmp_path: Path) -> None:
    """The tokenizer keeps the world's words whole, and breaks others into bytes."""
    tokenizer = build_tokenizer(tmp_path)
    assert all(len(tokenizer(w)["input_ids"]) == 3 for w in vocabulary())
    assert len(tokenizer("zyzzyva")["input_ids"]) > 3
    assert tokenizer.eos_token_id == len(tokenizer) - 1


def test_the_kept_merges_are_ones_that_learning_could_give() -> None:
    """Learning leaves the order of equals open; what it merges is the same, and the kept file holds all of it."""
    kept = (Path(tokenizer_module.__file__).parent / "merges.txt").read_text().splitlines()
    learned = {left + right for left, right in learn_merges(vocabulary())}
    assert len(kept) == len(set(kept))
    whole = {f"{word}</w>" for word in vocabulary()}
    assert whole <= {line.replace(" ", "") for line in kept} | {c + "</w>" for c in map(chr, range(33, 127))}
    assert whole <= learned | {c + "</w>" for c in map(chr, range(33, 127))}


def test_the_bundled_tokenizers_are_the_built_one(tmp_path: Path) -> None:
    """The CLIP's and the pipeline's token ids are the training's, or a word would be looked up in another's row."""
    built = build_tokenizer(tmp_path).get_vocab()
    assert json.loads((CLIP_DIR / "vocab.json").read_text()) == built
    for directory in (CLIP_DIR, PIPELINE_DIR / "tokenizer"):
        assert json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"] == built
