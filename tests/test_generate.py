"""Pictures from any endpoint."""

from __future__ import annotations

import numpy as np
import pytest

from blackbox_ti.errors import InputError, ProtocolError
from blackbox_ti.generate import generate
from tests.fake_host import FakeHost, fake_endpoint


def test_one_picture_a_prompt_and_seed_in_order() -> None:
    """Rows are prompts, columns are seeds; the same question has the same picture."""
    host = FakeHost()
    word = {"text": host.table[:1]}
    rows = generate(fake_endpoint(host), word, "<sks>", ["a <sks>", "the <sks>"], [1, 2, 3], num_inference_steps=2)
    assert [len(row) for row in rows] == [3, 3]
    again = generate(fake_endpoint(host), word, "<sks>", ["a <sks>"], [2], num_inference_steps=2)
    assert np.array_equal(np.asarray(rows[0][1]), np.asarray(again[0][0]))
    assert not np.array_equal(np.asarray(rows[0][0]), np.asarray(rows[0][1]))


def test_steps_and_guidance_are_what_is_charged() -> None:
    """Guidance doubles the forwards."""
    host = FakeHost()
    generate(fake_endpoint(host), {"text": host.table[:1]}, "<sks>", ["a <sks>"], [1, 2], num_inference_steps=3)
    assert host.forwards == 2 * 3 * 2


def test_nothing_to_make_is_an_error() -> None:
    """No prompt, or no seed."""
    with pytest.raises(InputError):
        generate(fake_endpoint(FakeHost()), {}, "<sks>", [], [1])


def test_a_refused_embedding_is_told() -> None:
    """The host's refusal of the word is an error, not a hole among the pictures."""
    host = FakeHost(max_norm=1e-3)
    with pytest.raises(ProtocolError, match="refused the embedding"):
        generate(fake_endpoint(host), {"text": host.table[:1]}, "<sks>", ["a <sks>"], [1])
