"""How much of a reply is read at the most."""

from __future__ import annotations

import base64

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_ti.replies import canonical_bytes
from blackbox_ti.reply_bounds import RECORD_BYTES, images_bound, losses_bound
from blackbox_ti.wire import (
    Charge,
    ImageItem,
    ImagesReply,
    ImagesRequest,
    Limits,
    LossReply,
    Rejection,
    encode_tensor,
)
from tests.fake_host import loss_request

CHARGE = Charge(forwards=10**9, queries=10**9, price_micros=10**9)
FIELDS = 500  # what a reply without candidates is long, its receipt apart, which is all that a record's bytes are for


def _rejections(count: int) -> list[Rejection]:
    return [Rejection(candidate=c, code="x" * 256, detail="\x00" * 2000) for c in range(count)]


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 300), st.data())
def test_the_longest_reply_to_a_loss_request_is_read(candidates: int, samples: int, data: st.DataObject) -> None:
    """Every candidate answered, or refused with all that a refusal may say, in the longest form JSON has."""
    rejected = data.draw(st.integers(0, candidates))
    request = loss_request("c", np.zeros((candidates, 1, 2)), samples=samples)
    reply = LossReply(
        candidates=list(range(candidates - rejected)),
        losses=encode_tensor(np.full((candidates - rejected, samples), -1e-38, np.float32)),
        rejected=_rejections(rejected),
        charge=CHARGE,
    )
    assert len(canonical_bytes(reply)) <= losses_bound(request) - RECORD_BYTES + FIELDS
    assert losses_bound(request, bytes_per_loss=40) - losses_bound(request) == candidates * samples * 34


@settings(max_examples=20)
@given(st.integers(1, 6), st.integers(1, 20_000))
def test_the_longest_reply_to_an_images_request_is_read(items: int, file_bytes: int) -> None:
    """Every file as large as the card allows, and every candidate refused besides."""
    request = ImagesRequest(
        placeholder_token="<sks>",
        embeddings={"text": encode_tensor(np.zeros((items, 1, 2)))},
        prompts=["<sks>"],
        items=[ImageItem(candidate=c, prompt=0, seed=0) for c in range(items)],
    )
    file = base64.b64encode(bytes(file_bytes)).decode("ascii")
    reply = ImagesReply(images=[file] * items, rejected=_rejections(items), charge=CHARGE)
    bound = images_bound(request, Limits(max_image_bytes=file_bytes))
    assert len(canonical_bytes(reply)) <= bound - RECORD_BYTES + FIELDS


def test_more_than_was_asked_is_not_read() -> None:
    """The bound grows with the request alone, from one record's length."""
    one = losses_bound(loss_request("c", np.zeros((1, 1, 2)), samples=1))
    assert RECORD_BYTES < one < RECORD_BYTES + 20_000
    assert losses_bound(loss_request("c", np.zeros((3, 1, 2)), samples=1)) - RECORD_BYTES == 3 * (one - RECORD_BYTES)
