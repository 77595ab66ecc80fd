"""One text encoder of a pipeline: prompts to token ids, and a word's vectors in place of its placeholder.

A word of T vectors enters where textual inversion enters: as T rows of the encoder's token table. Tokens are reserved
for it once, when the model is loaded, so that no request changes the tokenizer; which vectors they stand for is set
for one forward pass at a time.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blackbox_ti.wire import Encoder

__all__ = ["MAX_VECTORS", "PlaceholderEmbedding", "TextEncoder"]

MAX_VECTORS: Final = 64
_RESERVED_TOKENS: Final = [f"<bti:{i}>" for i in range(MAX_VECTORS)]
_RESERVED: Final = re.compile(r"<bti:\d+>", re.IGNORECASE)
_MIN_WORDS: Final = 100


class PlaceholderEmbedding(nn.Embedding):
    """A token table whose ids from `first` on are looked up in `vectors` (n, T, D) of the n rows of the batch.

    The ids stay in the batch as plain textual inversion has them, which matters to CLIP's pooled output.
    """

    def __init__(self, table: nn.Embedding, first: int) -> None:
        super().__init__(
            table.num_embeddings, table.embedding_dim, padding_idx=table.padding_idx, _weight=table.weight.data
        )
        self.requires_grad_(requires_grad=False)
        self.first = first
        self.vectors: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class's name
        """Return the embeddings (n, L, D) of token ids (n, L)."""
        if self.vectors is None:
            return super().forward(input)
        slot = input - self.first
        vectors = self.vectors.to(input.device)  # an offloaded encoder has come there since they were set
        index = slot.clamp(0, vectors.shape[1] - 1).unsqueeze(-1).expand(-1, -1, self.embedding_dim)
        vectors = vectors.expand(len(input), -1, -1).gather(1, index)
        rows = super().forward(input.clamp(max=self.first - 1))
        return torch.where((slot >= 0).unsqueeze(-1), vectors, rows)


class TextEncoder:
    """A text encoder and its tokenizer, both owned by it from now on.

    Calls of a tokenizer set its padding, so no two threads may use one: `is_token`, `count` and `vocabulary`, which any
    thread may call, share a copy under a lock, and the pipeline and `tokenize` keep the original to the lane.

    `max_length` is the number of tokens the pipeline pads and truncates to, start and end included.
    """

    def __init__(self, name: str, module: Any, tokenizer: Any, *, max_length: int | None = None) -> None:
        self.name = name
        self.module = module
        self.tokenizer = tokenizer
        self.max_length = int(max_length or tokenizer.model_max_length)
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._folds_case = tokenizer.tokenize("A") == tokenizer.tokenize("a")
        table = module.get_input_embeddings()
        first = len(tokenizer)
        added = tokenizer.add_tokens(_RESERVED_TOKENS)
        assert added == MAX_VECTORS, "the reserved tokens are not free"
        self.embedding = PlaceholderEmbedding(table, first)
        module.set_input_embeddings(self.embedding)
        self._copy = copy.deepcopy(tokenizer)
        self._lock = Lock()

    def is_token(self, word: str) -> bool:
        """Return whether `word` already is one token, as written or as the tokenizer reads it."""
        with self._lock:
            return word in self._vocabulary or len(self._copy.tokenize(word)) == 1

    def substitute(self, prompt: str, placeholder: str, vectors: int) -> str:
        """Return `prompt` with the placeholder as `vectors` reserved tokens.

        As diffusers names the tokens of a word of several vectors, `<sks>_1` is the second vector of `<sks>` alone.

        Raises:
            ValueError: more vectors than tokens are reserved.
        """
        if not 0 < vectors <= MAX_VECTORS:
            raise ValueError(f"a word has 1 to {MAX_VECTORS} vectors, not {vectors}")
        meaning = {f"{placeholder}_{i}": _RESERVED_TOKENS[i] for i in range(1, vectors)}
        meaning[placeholder] = " ".join(_RESERVED_TOKENS[:vectors])
        fold = str.lower if self._folds_case else str
        folded = {fold(word): tokens for word, tokens in meaning.items()}
        longest_first = "|".join(re.escape(word) for word in sorted(meaning, key=len, reverse=True))
        pattern = re.compile(longest_first, re.IGNORECASE if self._folds_case else 0)
        return pattern.sub(lambda match: folded[fold(match[0])], _RESERVED.sub(" ", prompt))

    def count(self, prompt: str) -> int:
        """Return how many tokens a substituted prompt takes, start and end included, before truncation."""
        with self._lock:
            return len(self._copy(prompt, truncation=False, verbose=False).input_ids)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return token ids (n, `max_length`) int64 of substituted prompts, padded and cut as the pipeline does."""
        encoded = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        )
        return torch.as_tensor(encoded.input_ids)

    @contextmanager
    def holding(self, vectors: Tensor) -> Iterator[None]:
        """Let the reserved tokens stand for `vectors` (n, T, D), or (1, T, D) for any batch."""
        weight = self.embedding.weight
        self.embedding.vectors = vectors.to(weight.device, weight.dtype)
        try:
            yield
        finally:
            self.embedding.vectors = None

    def vocabulary(self) -> tuple[list[str], NDArray[np.float32]]:
        """Return the tokens (V) in the order of their ids and their embeddings (V, D) float32."""
        size = min(self.embedding.first, self.embedding.num_embeddings)
        with self._lock:
            tokens = self._copy.convert_ids_to_tokens(range(size))
        return tokens, self.embedding.weight[:size].detach().float().cpu().numpy()

    def card(self) -> Encoder:
        """Return the encoder's share of the model card; norms are of whole words, where there are enough.

        A byte-pair table holds many pieces no text ever uses; a whole word (ending in `</w>`, or after `▁`, of more
        than one character) is much likelier to have been trained.
        """
        tokens, embeddings = self.vocabulary()
        whole = np.array([_is_whole_word(token) for token in tokens])
        norms = np.linalg.norm(embeddings[whole] if whole.sum() >= _MIN_WORDS else embeddings, axis=1)
        dim = self.embedding.embedding_dim
        return Encoder(name=self.name, dim=dim, norm_mean=float(norms.mean()), norm_std=float(norms.std()))


def _is_whole_word(token: str) -> bool:
    if token.endswith("</w>"):
        return len(token) > len("</w>") + 1
    return token.startswith("▁") and len(token) > 2
