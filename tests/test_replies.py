"""A host's replies are believed as far as they can be checked."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from blackbox_ti.errors import ProtocolError, WireError
from blackbox_ti.replies import (
    canonical_bytes,
    check_charge,
    check_images_reply,
    check_loss_reply,
    check_receipt,
    count_candidates,
    parse_record,
    receipt_bytes,
)
from blackbox_ti.wire import (
    Charge,
    ImageItem,
    ImagesReply,
    ImagesRequest,
    LossReply,
    LossRequest,
    ModelCard,
    Prices,
    Rejection,
    Tensor,
    encode_tensor,
)
from tests.fake_host import FakeHost, fake_endpoint, loss_request, png

CARD = FakeHost().card
REQUEST = loss_request("c", np.zeros((3, 1, 8)), samples=2)
REJECTED = [Rejection(candidate=1, code="invalid_tensor", detail="x")]


def charge(forwards: int, queries: int) -> Charge:
    """Return the charge the fake host's prices make of a cost."""
    return Charge(forwards=forwards, queries=queries, price_micros=CARD.prices.price_of(forwards, queries))


def loss_reply(**changes: Any) -> LossReply:
    """Return a sound reply to REQUEST, changed."""
    fields = {"candidates": [0, 1, 2], "losses": encode_tensor(np.ones((3, 2))), "charge": charge(6, 3)}
    return LossReply.model_validate({**fields, **changes})


def test_a_sound_loss_reply_passes() -> None:
    """All candidates in order, finite losses, exact charge: nothing to complain of, with or without a rejection."""
    check_loss_reply(REQUEST, loss_reply(), CARD)
    part = {"candidates": [0, 2], "losses": encode_tensor(np.ones((2, 2))), "charge": charge(4, 2)}
    check_loss_reply(REQUEST, loss_reply(**part, rejected=REJECTED), CARD)


@pytest.mark.parametrize(
    "changes",
    [
        {"candidates": [0, 1]},
        {"candidates": [0, 2, 1]},
        {"candidates": [0, 1, 1]},
        {"candidates": [0, 1, 3]},
        {"rejected": REJECTED},
        {"rejected": REJECTED * 2, "candidates": [0, 2]},
        {"rejected": [Rejection(candidate=9, code="x", detail="x")]},
        {"losses": None},
        {"losses": encode_tensor(np.ones((3, 3)))},
        {"losses": encode_tensor(np.ones((2, 2)))},
        {"losses": encode_tensor(np.ones((3, 2, 1)))},
        {"losses": encode_tensor(np.full((3, 2), np.nan))},
        {"losses": encode_tensor(np.full((3, 2), np.inf))},
        {"ranking": [0, 1, 2]},
        {"charge": charge(7, 3)},
        {"charge": charge(5, 3)},
        {"charge": charge(6, 4)},
        {"charge": Charge(forwards=6, queries=3, price_micros=10**9)},
    ],
)
def test_loss_replies_that_do_not_fit_are_protocol_errors(changes: dict[str, Any]) -> None:
    """Missing, doubled, misordered or unasked candidates, wrong shapes, NaN, and any other price are refused."""
    with pytest.raises(ProtocolError):
        check_loss_reply(REQUEST, loss_reply(**changes), CARD)


def test_losses_whose_bytes_do_not_fit_their_shape_are_wire_errors() -> None:
    """A tensor that does not decode is refused by the codec."""
    with pytest.raises(WireError):
        check_loss_reply(REQUEST, loss_reply(losses=Tensor(dtype="float32", shape=[3, 2], data="AAAA")), CARD)


RANKED = ModelCard.model_validate({**CARD.model_dump(), "reply_mode": "rank"})


def test_a_ranking_is_a_permutation() -> None:
    """In rank mode the reply lists each candidate once, and no losses."""
    check_loss_reply(REQUEST, loss_reply(losses=None, ranking=[2, 0, 1]), RANKED)
    for changes in (
        {"losses": None},
        {"losses": None, "ranking": [2, 0]},
        {"losses": None, "ranking": [2, 0, 0]},
        {"losses": None, "ranking": [2, 0, 1, 1]},
        {"ranking": [2, 0, 1]},
    ):
        with pytest.raises(ProtocolError):
            check_loss_reply(REQUEST, loss_reply(**changes), RANKED)


PICTURES = ImagesRequest(
    placeholder_token="<sks>",
    embeddings={"text": encode_tensor(np.zeros((2, 1, 8)))},
    prompts=["a <sks>"],
    items=[ImageItem(candidate=c, prompt=0, seed=1) for c in (0, 1)],
    num_inference_steps=5,
)


def pictures_reply(*pictures: bytes | None, **changes: Any) -> ImagesReply:
    """Return a reply with these files, charged for those that are there."""
    made = sum(p is not None for p in pictures)
    encoded = [None if p is None else base64.b64encode(p).decode() for p in pictures]
    return ImagesReply.model_validate({"images": encoded, "charge": charge(10 * made, made), **changes})


def test_sound_pictures_pass() -> None:
    """A PNG an item, or none where its candidate was rejected."""
    check_images_reply(PICTURES, pictures_reply(png(), png()), CARD)
    check_images_reply(PICTURES, pictures_reply(png(), None, rejected=REJECTED), CARD)


def bomb(width: int, height: int) -> bytes:
    """Return a small PNG file that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def jpeg() -> bytes:
    """Return a JPEG file."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, format="JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    "reply",
    [
        pictures_reply(png()),
        pictures_reply(png(), png(), png()),
        pictures_reply(png(), None),
        pictures_reply(png(), png(), rejected=REJECTED),
        pictures_reply(png(), png()[:-20]),
        pictures_reply(png(), png()[:40]),
        pictures_reply(png(), b""),
        pictures_reply(png(), b"GIF89a" + b"\0" * 100),
        pictures_reply(png(), jpeg()),
        pictures_reply(png(), png(size=(16, 8))),
        pictures_reply(png(), bomb(50_000, 50_000)),
        pictures_reply(png(), b"x" * 10_100_000),
        pictures_reply(png(), png(), charge=charge(21, 2)),
    ],
    ids=range(13),
)
def test_pictures_that_do_not_fit_are_protocol_errors(reply: ImagesReply) -> None:
    """Missing, extra, truncated, huge, claimed huge, of another size or format, or priced otherwise: refused."""
    with pytest.raises(ProtocolError):
        check_images_reply(PICTURES, reply, CARD)


@given(st.binary(max_size=200), st.integers(0, 80), st.booleans())
def test_any_picture_passes_or_is_a_protocol_error(junk: bytes, at: int, whole: bool) -> None:
    """Whatever bytes a picture has, only `ProtocolError` comes of it."""
    good = png()
    picture = junk if whole else good[:at] + junk + good[at + len(junk) :]
    try:
        check_images_reply(PICTURES, pictures_reply(good, picture), CARD)
    except ProtocolError:
        return
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (8, 8)


def test_base64_that_is_none_is_a_protocol_error() -> None:
    """A picture that is not base64 is refused."""
    with pytest.raises(ProtocolError, match="PNG"):
        check_images_reply(PICTURES, pictures_reply(png(), png(), images=["!!!", "ü"]), CARD)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_a_charge_is_the_exact_cost_or_refused(forwards: int, queries: int, told: int, asked: int) -> None:
    """No charge passes but the one computed from what was asked, at the prices on the card."""
    prices = Prices(forward_micros=2, query_micros=3)
    claim = Charge(forwards=told, queries=asked, price_micros=2 * told + 3 * asked)
    if (told, asked) == (forwards, queries):
        check_charge(claim, (forwards, queries), prices)
    else:
        with pytest.raises(ProtocolError, match="charged"):
            check_charge(claim, (forwards, queries), prices)


def receipted() -> tuple[Charge, LossRequest, ModelCard]:
    """Return a charge with a true receipt, and the request and card it is for."""
    host = FakeHost()
    endpoint = fake_endpoint(host)
    request = loss_request(endpoint.register_concept([png()]), np.zeros((1, 1, 8)))
    return endpoint.losses(request, label="x", key="k").charge, request, host.card


def test_a_true_receipt_passes_and_none_is_needed() -> None:
    """A receipt for this key, these bytes, this model and charge passes; a host may send none."""
    charged, request, card = receipted()
    check_receipt(charged, key="k", body=canonical_bytes(request), card=card)
    check_receipt(charged.model_copy(update={"receipt": None}), key="k", body=b"", card=card)


@pytest.mark.parametrize(
    "changes",
    [
        {"idempotency_key": "other"},
        {"request_sha256": "0" * 64},
        {"fingerprint": "0" * 64},
        {"forwards": 99},
        {"price_micros": 0},
        {"hash": "0" * 64},
        {"issued_at": "2030-01-01T00:00:00Z"},
    ],
)
def test_a_receipt_for_something_else_is_a_protocol_error(changes: dict[str, Any]) -> None:
    """A receipt for another key, request, model or charge, or one that was changed, is refused."""
    charged, request, card = receipted()
    assert charged.receipt is not None
    false = charged.model_copy(update={"receipt": charged.receipt.model_copy(update=changes)})
    with pytest.raises(ProtocolError, match="receipt"):
        check_receipt(false, key="k", body=canonical_bytes(request), card=card)


def test_a_receipts_bytes_are_its_definition() -> None:
    """The hash is over canonical JSON of all fields but `hash` and `signature`."""
    charged, _, _ = receipted()
    assert charged.receipt is not None
    fields = json.loads(charged.receipt.model_dump_json())
    del fields["hash"], fields["signature"]
    content = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    assert receipt_bytes(charged.receipt) == content
    assert hashlib.sha256(content).hexdigest() == charged.receipt.hash


@given(st.binary(max_size=200) | st.just(b"[" * 100_000))
def test_any_body_is_a_record_or_a_protocol_error(body: bytes) -> None:
    """A body that is not the record, however broken, is told as such."""
    with pytest.raises(ProtocolError, match="LossReply"):
        parse_record(LossReply, body)


def test_candidates_are_counted_in_any_encoders_tensor() -> None:
    """The first axis is theirs, whatever the encoders are called."""
    assert count_candidates(REQUEST) == 3
    other = REQUEST.model_copy(update={"embeddings": {"other": encode_tensor(np.zeros((5, 2, 4)))}})
    assert count_candidates(other) == 5
