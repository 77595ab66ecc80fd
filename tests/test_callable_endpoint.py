"""Any callable as an endpoint."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.callable_endpoint import CallableEndpoint
from blackbox_ti.concept import decode_image
from blackbox_ti.endpoint import Endpoint, Vocabulary, guarantees_of
from blackbox_ti.errors import EndpointError, InputError, ProtocolError, RejectedError
from blackbox_ti.generate import generate
from blackbox_ti.wire import ImageItem, ImagesRequest, LossRequest, decode_tensor, encode_tensor
from tests.fake_host import loss_request, png

Embeddings = Mapping[str, NDArray[np.float32]]


def flat(embeddings: Embeddings, request: ImagesRequest) -> list[Image.Image | None]:
    """A flat picture an item, as grey as the embedding is long; candidates with a negative first number get none."""
    size = (request.width or 16, request.height or 16)
    pictures: list[Image.Image | None] = []
    for item in request.items:
        vector = embeddings["text"][item.candidate]
        grey = min(255, int(100 * float(np.linalg.norm(vector))))
        pictures.append(None if vector[0, 0] < 0 else Image.new("RGB", size, (grey, grey, item.seed % 256)))
    return pictures


def brightness(embeddings: Embeddings, request: LossRequest, references: Sequence[Image.Image]) -> NDArray[np.float64]:
    """How far the embedding's mean is from the reference's brightness; not a number where it is over 10."""
    means = embeddings["text"].mean(axis=(1, 2), dtype=np.float64)
    wanted = [np.asarray(references[s.image]).mean() / 255 for s in request.samples]
    table: NDArray[np.float64] = (means[:, None] - np.array(wanted)[None, :]) ** 2
    table[means > 10] = np.nan
    return table


def endpoint(**changed: object) -> CallableEndpoint:
    """An endpoint over both."""
    given = {"encoders": {"text": 4}, "losses": brightness, "images": flat, "resolution": 16, **changed}
    return CallableEndpoint(**given)  # type: ignore[arg-type]


def images_request(embeddings: NDArray[np.float32], **more: object) -> ImagesRequest:
    """One picture a candidate."""
    given = {"num_inference_steps": 3, "guidance_scale": 2.0, **more}
    return ImagesRequest.model_validate(
        {
            "placeholder_token": "<sks>",
            "embeddings": {"text": encode_tensor(embeddings).model_dump()},
            "prompts": ["a <sks>"],
            "items": [ImageItem(candidate=c, prompt=0, seed=7).model_dump() for c in range(len(embeddings))],
            **given,
        }
    )


def test_losses_come_from_the_function_at_their_exact_cost() -> None:
    """A candidate that is not finite fails alone and costs nothing."""
    e = endpoint()
    concept = e.register_concept([png((255, 255, 255))])
    embeddings = np.stack([np.full((1, 4), v, dtype=np.float32) for v in (0.0, 11.0, 1.0)])
    reply = e.losses(loss_request(concept, embeddings, samples=5), label="x")
    assert reply.candidates == [0, 2]
    assert [r.candidate for r in reply.rejected] == [1]
    assert reply.losses is not None
    assert np.allclose(decode_tensor(reply.losses), [[1.0] * 5, [0.0] * 5])
    assert (reply.charge.forwards, reply.charge.queries) == (10, 2)
    assert (e.usage().forwards, e.usage().queries) == (10, 2)


def test_pictures_come_from_the_function_at_their_exact_cost() -> None:
    """Steps a picture, twice with guidance; a candidate it refuses fails alone."""
    e = endpoint()
    embeddings = np.zeros((3, 1, 4), dtype=np.float32)
    embeddings[:, 0, 0] = [0.5, -1.0, 2.0]
    reply = e.images(images_request(embeddings), label="x")
    assert [p is None for p in reply.images] == [False, True, False]
    assert [r.candidate for r in reply.rejected] == [1]
    assert (reply.charge.forwards, reply.charge.queries) == (2 * 3 * 2, 2)
    assert reply.images[0] is not None
    picture = decode_image(base64.b64decode(reply.images[0]), "reply")
    assert picture.getpixel((0, 0)) == (50, 50, 7)


def test_generate_draws_with_it() -> None:
    """It is an `Endpoint` like any other."""
    e: Endpoint = endpoint()
    rows = generate(e, {"text": np.ones((1, 4), dtype=np.float32)}, "<sks>", ["a <sks>"], [1, 2], height=8, width=24)
    assert [p.size for p in rows[0]] == [(24, 8), (24, 8)]
    assert not guarantees_of(e).receipts


def test_the_card_says_what_there_is() -> None:
    """Objectives by the functions given, a vocabulary only where every encoder has one."""
    table = Vocabulary(["a", "b"], np.array([[3.0, 4.0], [0.0, 1.0]], dtype=np.float32))
    both = CallableEndpoint(encoders={"text": table}, images=flat)
    assert both.describe().objectives == ["images"]
    assert both.describe().vocabulary
    assert both.describe().encoders[0].norm_mean == pytest.approx(3.0)
    assert both.vocabulary("text") is table
    half = CallableEndpoint(encoders={"text": table, "other": 3}, losses=brightness)
    assert half.describe().objectives == ["loss"]
    assert not half.describe().vocabulary
    assert half.vocabulary("other") is None
    assert (
        both.describe().fingerprint != CallableEndpoint(encoders={"t": 1}, images=flat, name="x").describe().fingerprint
    )


def test_nothing_to_ask_is_refused() -> None:
    """A function and an encoder are the least there is."""
    with pytest.raises(InputError, match="function"):
        CallableEndpoint(encoders={"text": 4})
    with pytest.raises(InputError, match="encoder"):
        CallableEndpoint(encoders={}, images=flat)


def test_what_is_not_offered_is_refused() -> None:
    """No function, or no such concept."""
    zeros = np.zeros((1, 1, 4), dtype=np.float32)
    with pytest.raises(RejectedError, match="losses"):
        endpoint(losses=None).losses(loss_request("c", zeros), label="x")
    with pytest.raises(RejectedError, match="images"):
        endpoint(images=None).images(images_request(zeros), label="x")
    e = endpoint()
    concept = e.register_concept([png()])
    e.delete_concept(concept)
    e.delete_concept(concept)
    with pytest.raises(RejectedError, match="concept"):
        e.losses(loss_request(concept, zeros), label="x")


def test_a_function_is_as_untrusted_as_a_host() -> None:
    """Wrong counts, shapes and sizes, a half-refused candidate, and exceptions are typed errors; nothing is charged."""
    zeros = np.zeros((2, 1, 4), dtype=np.float32)

    def fail(*_: object) -> list[Image.Image | None]:
        raise KeyError("no such layer")

    small = Image.new("RGB", (8, 8))
    wrong: list[tuple[object, type[Exception]]] = [
        (lambda *_: [small], ProtocolError),
        (lambda *_: [small, small], ProtocolError),
        (fail, EndpointError),
    ]
    for function, kind in wrong:
        e = endpoint(images=function)
        with pytest.raises(kind):
            e.images(images_request(zeros), label="x")
        assert e.usage().forwards == 0
    for losses in (lambda *_: np.zeros((2, 3)), lambda *_: np.zeros(2), fail):
        e = endpoint(losses=losses)
        concept = e.register_concept([png()])
        with pytest.raises(EndpointError):
            e.losses(loss_request(concept, zeros), label="x")
        assert e.usage().forwards == 0
    half = endpoint(images=lambda *_: [None, Image.new("RGB", (16, 16))])
    request = images_request(zeros)
    twice = request.model_copy(update={"items": [request.items[0], request.items[0]]})
    with pytest.raises(ProtocolError):
        half.images(twice, label="x")
