"""A token table page by page."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.errors import AuthError, EndpointError, ProtocolError, RejectedError
from blackbox_ti.vocabulary_pages import read_vocabulary
from blackbox_ti.wire import Problem, ProblemCode, VocabularyReply, encode_tensor
from tests.fake_host import FakeHost

CARD = FakeHost().card
DIM = CARD.encoders[0].dim
ABSENT = {ProblemCode.NOT_OFFERED, ProblemCode.FORBIDDEN}


class Host:
    """A host with a table of `total` tokens that sends pages of the lengths given, the last as often as needed."""

    def __init__(self, total: int, *lengths: int, dim: int = DIM) -> None:
        self.tokens = [f"t{i}" for i in range(total)]
        self.table = np.arange(total * dim, dtype=np.float32).reshape(total, dim)
        self.lengths = list(lengths)
        self.asked: list[int] = []

    def page(self, offset: int) -> VocabularyReply:
        """Return the page from a token on."""
        self.asked.append(offset)
        length = self.lengths.pop(0) if len(self.lengths) > 1 else self.lengths[0]
        return VocabularyReply(
            encoder="text",
            total=len(self.tokens),
            offset=offset,
            tokens=self.tokens[offset : offset + length],
            embeddings=encode_tensor(self.table[offset : offset + length]),
        )


@given(st.integers(1, 60), st.lists(st.integers(1, 25), min_size=1, max_size=8))
def test_the_whole_table_comes_however_it_is_cut(total: int, lengths: list[int]) -> None:
    """Every token once, in order, with its own row, and no page is asked for twice."""
    host = Host(total, *lengths)
    found = read_vocabulary(host.page, "text", CARD, absent=ABSENT)
    assert found is not None
    assert list(found.tokens) == host.tokens
    np.testing.assert_array_equal(found.embeddings, host.table)
    assert host.asked == sorted(set(host.asked))


def test_a_host_that_sends_nothing_more_is_not_asked_for_ever() -> None:
    """An empty page in the middle is an error."""
    host = Host(10, 4, 0)
    with pytest.raises(ProtocolError, match="follow"):
        read_vocabulary(host.page, "text", CARD, absent=ABSENT)
    assert host.asked == [0, 4]


@pytest.mark.parametrize(("encoder", "dim"), [("text", DIM - 1), ("other", DIM)])
def test_a_table_of_another_encoder_is_refused(encoder: str, dim: int) -> None:
    """Its name and width are those on the card."""
    with pytest.raises(ProtocolError):
        read_vocabulary(Host(3, 3, dim=dim).page, encoder, CARD, absent=ABSENT)


@pytest.mark.parametrize("kind", [RejectedError, AuthError])
@pytest.mark.parametrize("code", ["not_offered", "forbidden", "concept_not_found", None])
def test_only_the_codes_that_say_so_mean_that_there_is_no_table(kind: type[EndpointError], code: str | None) -> None:
    """Any other refusal, and one without a reason, is an error."""

    def refuse(_: int) -> VocabularyReply:
        raise kind("no", problem=None if code is None else Problem(status=404, code=code))

    if code in ABSENT:
        assert read_vocabulary(refuse, "text", CARD, absent=ABSENT) is None
    else:
        with pytest.raises(kind):
            read_vocabulary(refuse, "text", CARD, absent=ABSENT)
