"""The vocabulary's pages."""

from __future__ import annotations

import numpy as np

from blackbox_ti.wire import Problem, VocabularyReply, decode_tensor
from tests.server_stub.fake_engine import TOKENS
from tests.server_stub.served import served


def test_pages_of_any_size_make_the_whole_table() -> None:
    """Asked for one row or a million, following the offsets gives each token once, with its own embedding."""
    with served(vocabulary=True, max_vocabulary_page=3) as app:
        whole = app.engine.vocabulary("text")
        for limit in (1, 2, 10**6):
            tokens: list[str] = []
            rows = []
            while len(tokens) < len(TOKENS):
                query: dict[str, str | int] = {"encoder": "text", "offset": len(tokens), "limit": limit}
                page = VocabularyReply.model_validate_json(app.client.get("/v1/vocabulary", params=query).content)
                assert (page.total, page.offset) == (len(TOKENS), len(tokens))
                assert 0 < len(page.tokens) <= min(limit, 3)
                tokens += page.tokens
                rows.append(decode_tensor(page.embeddings))
            assert tokens == list(whole[0])
            np.testing.assert_array_equal(np.concatenate(rows), whole[1])


def test_beyond_the_end_is_an_empty_page_and_an_unknown_encoder_is_named() -> None:
    """An offset past the table is no error; a name that is no encoder's is, and says which there are."""
    with served(vocabulary=True) as app:
        page = app.client.get("/v1/vocabulary", params={"encoder": "text", "offset": 10**6}).json()
        assert (page["tokens"], page["embeddings"]["shape"]) == ([], [0, 8])
        refused = app.client.get("/v1/vocabulary", params={"encoder": "other"})
        found = Problem.model_validate_json(refused.content)
        assert (refused.status_code, found.code) == (422, "invalid_request")
        assert "text" in found.detail
        assert "other" not in found.detail
