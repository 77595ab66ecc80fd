"""Requests answered on an engine without a server around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from blackbox_ti.wire import Charge, ImagesRequest, LossRequest, ProblemCode, decode_tensor
from server_stub.concepts import prepare_picture
from server_stub.hosting.answers import answer_images, answer_loss
from server_stub.hosting.model import HostedModel
from server_stub.problems import ProblemError
from server_stub.settings import Settings
from tests.server_stub.fake_engine import DIM, FakeEngine
from tests.server_stub.served import embeddings, images_body, loss_body

CARD = HostedModel(FakeEngine(), Settings()).card


def _charge(cost: tuple[int, int]) -> Charge:
    return Charge(forwards=cost[0], queries=cost[1], price_micros=0)


def _latents(engine: FakeEngine) -> Any:
    from PIL import Image

    return engine.encode_images([prepare_picture(Image.new("RGB", (16, 16), (9, 9, 9)), CARD.resolution)])


def _loss(*rejected: int) -> LossRequest:
    values = np.linspace(0.1, 1, 3 * DIM).reshape(3, 1, DIM)
    values[list(rejected)] = np.nan
    return LossRequest.model_validate(loss_body("id", embeddings=embeddings(values)))


def test_only_candidates_that_were_scored_are_charged() -> None:
    """One that cannot be is told apart, and its neighbours have their losses."""
    engine = FakeEngine()
    whole = answer_loss(engine, CARD, _loss(), _latents(engine), _charge)
    part = answer_loss(engine, CARD, _loss(1), _latents(engine), _charge)
    assert (whole.charge.forwards, whole.charge.queries) == (6, 3)
    assert (part.charge.forwards, part.charge.queries) == (4, 2)
    assert (part.candidates, [one.candidate for one in part.rejected]) == ([0, 2], [1])
    assert whole.losses is not None
    assert part.losses is not None
    np.testing.assert_array_equal(decode_tensor(part.losses), decode_tensor(whole.losses)[[0, 2]])


def test_nothing_to_do_reaches_no_engine() -> None:
    """Where every candidate is rejected the reply is empty and free."""
    engine = FakeEngine()
    latents, calls = _latents(engine), engine.calls
    reply = answer_loss(engine, CARD, _loss(0, 1, 2), latents, _charge)
    assert (reply.candidates, reply.charge.forwards, len(reply.rejected)) == ([], 0, 3)
    body = images_body() | {"embeddings": embeddings(np.full((2, 1, DIM), np.inf))}
    drawn = answer_images(engine, CARD, ImagesRequest.model_validate(body), 32, _charge)
    assert (drawn.images, drawn.charge.forwards) == ([None, None], 0)
    assert engine.calls == calls


def test_pictures_are_charged_by_their_steps_and_bounded_in_size() -> None:
    """Twice a step with guidance; a side over the bound is refused before anything is drawn."""
    engine = FakeEngine()
    asked = ImagesRequest.model_validate(images_body())
    reply = answer_images(engine, CARD, asked, CARD.resolution, _charge)
    assert (reply.charge.forwards, reply.charge.queries) == (2 * 3 * 2, 2)
    assert all(reply.images)
    calls = engine.calls
    with pytest.raises(ProblemError) as error:
        answer_images(engine, CARD, asked, CARD.resolution - 1, _charge)
    assert error.value.code is ProblemCode.LIMIT_EXCEEDED
    assert engine.calls == calls
