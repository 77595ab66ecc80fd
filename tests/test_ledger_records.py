"""The book's records, and how a run that goes on is held against the one that began."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.errors import ResumeError
from blackbox_ti.ledger_records import canonical, check_same_run, digest
from blackbox_ti.replies import canonical_bytes

SETTINGS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=5)


def run(settings: dict[str, object], endpoint: str = "e", pictures: str = "[]") -> dict[str, str]:
    """Return a run's identity as the ledger keeps it."""
    return {"endpoint": endpoint, "settings": canonical(settings), "pictures": pictures}


@given(SETTINGS, SETTINGS)
def test_runs_are_the_same_exactly_where_their_settings_are(before: dict[str, object], now: dict[str, object]) -> None:
    """Equal settings pass whatever their order; any other difference is refused."""
    check_same_run(run(before), run(dict(reversed(before.items()))))
    if before != now:
        with pytest.raises(ResumeError, match=" was "):
            check_same_run(run(before), run(now))


def test_every_difference_is_named_at_once() -> None:
    """A person sees all that changed, not the first of it."""
    with pytest.raises(
        ResumeError, match=r"endpoint was e, is f; popsize was 8, is 16, seed was 1, is 'unset'; the pictures"
    ):
        check_same_run(run({"seed": 1, "popsize": 8}), run({"popsize": 16}, "f", '["x"]'))


@given(SETTINGS)
def test_the_ledger_and_the_wire_hash_alike(value: dict[str, object]) -> None:
    """A request's hash in the ledger is the hash of the bytes on the wire."""
    assert digest(value) == hashlib.sha256(canonical_bytes(value)).hexdigest()
