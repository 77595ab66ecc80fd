"""An encoder's token table, asked of a host page by page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np

from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import AuthError, RejectedError
from blackbox_ti.problems import has_code
from blackbox_ti.replies import check_vocabulary_page
from blackbox_ti.wire import ModelCard, VocabularyReply, decode_tensor

__all__ = ["read_vocabulary"]


def read_vocabulary(
    ask: Callable[[int], VocabularyReply], encoder: str, card: ModelCard, *, absent: Collection[str]
) -> Vocabulary | None:
    """Return the table whose page from a token's offset `ask` asks for, or None where it is not offered.

    `absent` holds the problem codes by which the host says so.

    Raises:
        ProtocolError: the pages do not follow each other, or do not hold finite embeddings of the encoder's width.
    """
    try:
        pages = list(_pages(ask, encoder, card))
    except (RejectedError, AuthError) as error:
        if has_code(error, absent):
            return None
        raise
    tokens = tuple(token for page in pages for token in page.tokens)
    return Vocabulary(tokens, np.concatenate([decode_tensor(page.embeddings) for page in pages]))


def _pages(ask: Callable[[int], VocabularyReply], encoder: str, card: ModelCard) -> Iterator[VocabularyReply]:
    """Yield the pages, each checked to follow the one before."""
    dims = {e.name: e.dim for e in card.encoders}
    offset, total = 0, None
    while total is None or offset < total:
        page = ask(offset)
        total = page.total if total is None else total
        check_vocabulary_page(page, encoder=encoder, offset=offset, total=total, dim=dims.get(encoder))
        yield page
        offset += len(page.tokens)
