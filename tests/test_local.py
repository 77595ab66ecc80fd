"""What endpoints without a host have in common."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from blackbox_ti.budget import charge_of
from blackbox_ti.endpoint import guarantees_of
from blackbox_ti.errors import RejectedError
from blackbox_ti.local import Local, decoded, encoded
from blackbox_ti.wire import encode_tensor


class Memory(Local[int]):
    """Keeps how many pictures a concept has, and counts each look as one query of that many forwards."""

    def keep(self, concept: str, pictures: int) -> None:
        """Remember."""
        self._concepts[concept] = pictures

    def look(self, concept: str) -> int:
        """Return how many pictures there are."""
        pictures = self._concept(concept)
        self._tally.count(charge_of((pictures, 1)))
        return pictures


def test_a_concept_is_there_until_it_is_deleted() -> None:
    """Deleting twice is no error; looking for what is not there is, and costs nothing."""
    memory = Memory()
    memory.keep("sks", 0)
    assert memory.look("sks") == 0
    memory.delete_concept("sks")
    memory.delete_concept("sks")
    with pytest.raises(RejectedError, match="register the pictures first"):
        memory.look("sks")
    assert memory.usage().queries == 1


def test_usage_is_what_was_asked_of_this_object() -> None:
    """Without prices, and of no other object of the kind."""
    memory, other = Memory(), Memory()
    memory.keep("sks", 3)
    memory.look("sks")
    memory.look("sks")
    usage = memory.usage()
    assert (usage.account, usage.forwards, usage.queries, usage.price_micros) == ("in-process", 6, 2, 0)
    assert other.usage().queries == 0
    memory.close()
    assert memory.look("sks") == 3


def test_it_promises_all_but_receipts() -> None:
    """A call in this process has its effect once, at its exact cost."""
    told = guarantees_of(Memory())
    assert (told.idempotency, told.exact_cost, told.receipts) == (True, True, False)


def test_embeddings_and_pictures_cross_over_unchanged() -> None:
    """Tensors become arrays by encoder; a picture becomes a PNG with the same pixels."""
    rows = np.random.default_rng(0).normal(size=(2, 1, 3)).astype(np.float32)
    found = decoded({"a": encode_tensor(rows), "b": encode_tensor(rows[:1])})
    assert {name: array.shape for name, array in found.items()} == {"a": (2, 1, 3), "b": (1, 1, 3)}
    np.testing.assert_array_equal(found["a"], rows)
    picture = Image.effect_noise((9, 5), 80).convert("RGB")
    with Image.open(io.BytesIO(base64.b64decode(encoded(picture)))) as file:
        assert file.format == "PNG"
        np.testing.assert_array_equal(np.asarray(file), np.asarray(picture))
