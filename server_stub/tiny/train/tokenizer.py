"""A CLIP tokenizer in which every word of the world is one token."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from server_stub.tiny.world import vocabulary

__all__ = ["CONTEXT_LENGTH", "build_tokenizer", "learn_merges"]

CONTEXT_LENGTH = 32
_START, _END = "<|startoftext|>", "<|endoftext|>"


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges, learned until each word is whole.

    Equally frequent pairs come in the order of a hash table, another in every process: hence `merges.txt`, which holds
    one such answer for good. A new vocabulary needs a new one, and new weights.
    """
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=100_000, min_frequency=0, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def _merges() -> list[tuple[str, str]]:
    lines = (Path(__file__).parent / "merges.txt").read_text(encoding="utf-8").splitlines()
    return [(left, right) for left, right in (line.split(" ") for line in lines)]


def _alphabet() -> list[str]:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return letters + [letter + "</w>" for letter in letters]


def build_tokenizer(directory: Path) -> CLIPTokenizer:
    """Write `vocab.json` and `merges.txt` of the world's tokenizer to `directory` and return it.

    The order of the tokens is CLIP's: bytes, bytes ending a word, merges, start, end (the highest id).
    """
    merges = _merges()
    tokens = list(dict.fromkeys([*_alphabet(), *(a + b for a, b in merges), _START, _END]))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").unlink(missing_ok=True)  # it would be read in place of the two files below
    (directory / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(directory, model_max_length=CONTEXT_LENGTH)
    tokenizer.save_pretrained(directory)
    broken = [w for w in vocabulary() if len(tokenizer(w)["input_ids"]) != 3]
    assert not broken, f"these words are not single tokens: {broken}"
    return tokenizer
