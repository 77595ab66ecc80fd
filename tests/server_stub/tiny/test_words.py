"""The words of the world."""

from __future__ import annotations

from server_stub.tiny.world import (
    vocabulary,
)


def test_the_vocabulary_is_rich() -> None:
    """At least 300 words, each once, lower case letters alone."""
    words = vocabulary()
    assert len(words) >= 300
    assert len(set(words)) == len(words)
    assert all(w.isalpha() and w == w.lower() for w in words)
