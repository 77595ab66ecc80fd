"""The handler for Hugging Face Inference Endpoints, on an engine without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blackbox_ti.wire import ImagesReply, LossReply, ModelCard, Tensor, decode_tensor
from server_stub.hosting.huggingface.handler import EndpointHandler
from server_stub.settings import Settings
from tests.server_stub.fake_engine import DIM, TOKENS, FakeEngine
from tests.server_stub.served import embeddings, images_body, loss_body, picture, served


class Handled:
    """A handler on a fake engine; what it returns has to survive JSON."""

    def __init__(self, engine: FakeEngine | None = None, **settings: Any) -> None:
        self.engine = engine or FakeEngine()
        self.handler = EndpointHandler("", engine=self.engine, settings=Settings(**settings))

    def __call__(self, inputs: Any, **parameters: Any) -> dict[str, Any]:
        """Return the whole answer."""
        answer = self.handler({"inputs": inputs, "parameters": parameters})
        told: dict[str, Any] = json.loads(json.dumps(answer, allow_nan=False))
        return told

    def reply(self, inputs: Any, **parameters: Any) -> dict[str, Any]:
        """Return the reply of a request that works."""
        answer = self(inputs, **parameters)
        assert "problem" not in answer, answer
        told: dict[str, Any] = answer["reply"]
        return told

    def problem(self, inputs: Any, **parameters: Any) -> str:
        """Return the code of a refusal."""
        answer = self(inputs, **parameters)
        assert set(answer) == {"problem"}, answer
        return str(answer["problem"]["code"])

    def concept(self, *levels: int) -> str:
        """Register flat pictures."""
        pictures = [picture(level) for level in levels or (100,)]
        return str(self.reply({"images": pictures}, task="concepts")["concept"])


def test_the_card_is_the_servers_without_receipts() -> None:
    """What the reference server says of the same engine and settings, but nothing is signed."""
    settings: dict[str, Any] = {"vocabulary": True, "reply_mode": "rounded", "reply_digits": 3}
    card = ModelCard.model_validate(Handled(**settings).reply({}, task="model"))
    with served(**settings) as app:
        assert card == app.host.card.model_copy(update={"receipt_public_key": None})


@pytest.mark.parametrize("mode", ["exact", "rounded", "rank"])
def test_losses_are_the_servers(mode: str) -> None:
    """Same bits, same rejections, same charge, in every reply mode."""
    host = Handled(reply_mode=mode)
    with served(reply_mode=mode) as app:
        values = np.linspace(0.1, 1, 3 * DIM).reshape(3, 1, DIM)
        values[1] = np.nan
        theirs = app.charged("/v1/loss", loss_body(app.concept(), embeddings=embeddings(values))).json()
    asked = loss_body(host.concept(), embeddings=embeddings(values))
    ours = host.reply(asked, task="loss", idempotency_key="k")
    for answer in (ours, theirs):
        answer["charge"].pop("receipt")
    assert ours == theirs
    assert LossReply.model_validate(ours).rejected[0].candidate == 1


def test_pictures_are_the_servers() -> None:
    """Same files for the same question."""
    with served() as app:
        theirs = app.charged("/v1/images", images_body()).json()["images"]
    ours = ImagesReply.model_validate(Handled().reply(images_body(), task="images", idempotency_key="k"))
    assert ours.images == theirs
    assert ours.charge.forwards == 2 * 3 * 2


def test_a_concept_is_named_by_its_pictures_and_encoded_once() -> None:
    """The same files have the same id, in any process, and the engine sees them once."""
    host, other = Handled(), Handled()
    first = host.concept(1, 2)
    calls = host.engine.calls
    assert host.concept(1, 2) == first == other.concept(1, 2) != host.concept(2, 1)
    assert host.engine.calls == calls + 1


def test_pictures_a_replica_lost_come_with_the_request_once() -> None:
    """The handler says that it does not know them, takes them with the question, and knows them from then on."""
    concept = Handled().concept(7)
    host = Handled()
    asked = loss_body(concept)
    assert host.problem(asked, task="loss", idempotency_key="k") == "concept_not_found"
    with_pictures = host.reply(asked, task="loss", idempotency_key="k", pictures=[picture(7)])
    assert host.reply(asked, task="loss", idempotency_key="k2") == with_pictures
    assert host.problem(loss_body("ab" * 32), task="loss", idempotency_key="k3", pictures=[picture(7)]) == (
        "concept_not_found"
    )
    host.reply({"concept": concept}, task="delete_concept")
    assert host.problem(asked, task="loss", idempotency_key="k4") == "concept_not_found"


def test_the_same_key_is_the_same_work() -> None:
    """A replica repeats its reply without working again; the key is that request's alone."""
    host = Handled()
    asked = loss_body(host.concept())
    first = host(asked, task="loss", idempotency_key="k")
    calls = host.engine.calls
    again = host(asked, task="loss", idempotency_key="k")
    assert host.engine.calls == calls
    assert (first["replayed"], again["replayed"]) == (False, True)
    assert first["reply"] == again["reply"]
    assert host.problem(loss_body(host.concept(), samples=1), task="loss", idempotency_key="k") == (
        "idempotency_key_reused"
    )


def test_only_the_last_replies_are_kept() -> None:
    """Memory is bounded; what was dropped is computed again."""
    host = Handled()
    asked = loss_body(host.concept())
    for number in range(300):
        host.reply(asked, task="loss", idempotency_key=f"k{number}")
    assert host(asked, task="loss", idempotency_key="k299")["replayed"]
    assert not host(asked, task="loss", idempotency_key="k0")["replayed"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"embeddings": {"other": {"dtype": "float32", "shape": [1, 1, 8], "data": ""}}}, "invalid_tensor"),
        ({"embeddings": {"text": {"dtype": "float32", "shape": [1, 1, 8], "data": "AAAA"}}}, "invalid_tensor"),
        ({"embeddings": {"text": {"dtype": "int8", "shape": [1, 1, 8], "data": ""}}}, "invalid_request"),
        ({"samples": [{"image": 5, "prompt": 0, "t": 0.5, "seed": 1}]}, "invalid_request"),
        ({"samples": [{"image": 0, "prompt": 0, "t": 2.0, "seed": 1}]}, "invalid_request"),
        ({"placeholder_token": "cat"}, "placeholder_taken"),
        ({"samples": [{"image": 0, "prompt": 0, "t": 0.5, "seed": 1}] * 300}, "limit_exceeded"),
        ({"surprise": 1}, "invalid_request"),
    ],
)
def test_what_cannot_be_is_refused_by_the_servers_own_checks(change: dict[str, Any], code: str) -> None:
    """Shapes, dtypes, limits and names, each with its code, and the engine never sees them."""
    host = Handled()
    asked = loss_body(host.concept()) | change
    calls = host.engine.calls
    assert host.problem(asked, task="loss", idempotency_key="k") == code
    assert host.engine.calls == calls


@pytest.mark.parametrize(
    ("inputs", "parameters", "code"),
    [
        ({}, {}, "invalid_request"),
        ({}, {"task": "dance"}, "not_found"),
        ({}, {"task": "model", "surprise": 1}, "invalid_request"),
        ("text", {"task": "loss", "idempotency_key": "k"}, "invalid_request"),
        (loss_body("x"), {"task": "loss"}, "idempotency_key_missing"),
        ({"images": ["!"]}, {"task": "concepts"}, "invalid_image"),
        ({"images": [picture()] * 21}, {"task": "concepts"}, "limit_exceeded"),
        ({"encoder": "text"}, {"task": "vocabulary"}, "not_offered"),
    ],
)
def test_requests_that_make_no_sense_are_problems(inputs: Any, parameters: dict[str, Any], code: str) -> None:
    """No exception leaves the handler: the web service around it would tell its text to anyone."""
    assert Handled().problem(inputs, **parameters) == code


@pytest.mark.parametrize("data", [{}, {"inputs": 1}, {"inputs": 1, "parameters": None}, {"parameters": [1]}])
def test_other_shapes_of_bodies_are_problems(data: dict[str, Any]) -> None:
    """Whatever the web service lets through."""
    assert Handled().handler(data)["problem"]["code"] == "invalid_request"


def test_a_failure_of_the_model_says_nothing_of_itself() -> None:
    """The text of an exception may hold paths and tensors."""
    host = Handled()
    asked = loss_body(host.concept())
    host.engine.error = RuntimeError("secret path /x")
    answer = host(asked, task="loss", idempotency_key="k")
    assert answer["problem"]["code"] == "internal"
    assert "secret" not in json.dumps(answer)
    host.engine.error = None
    assert not host(asked, task="loss", idempotency_key="k")["replayed"]


def test_objectives_and_vocabulary_are_the_settings() -> None:
    """What is turned off is not offered; the token table comes in pages."""
    host = Handled(objectives=("images",), vocabulary=True, max_vocabulary_page=2)
    assert host.problem(loss_body("x"), task="loss", idempotency_key="k") == "not_offered"
    page = host.reply({"encoder": "text", "offset": 2}, task="vocabulary")
    assert page["tokens"] == list(TOKENS[2:4])
    assert page["total"] == len(TOKENS)
    assert decode_tensor(Tensor.model_validate(page["embeddings"])).shape == (2, DIM)
    assert host.problem({"encoder": "other"}, task="vocabulary") == "invalid_request"


def test_the_requirements_name_the_package() -> None:
    """The file beside the handler installs what the handler imports."""
    import server_stub.hosting.huggingface as package

    folder = Path(str(package.__file__)).parent
    assert (folder / "requirements.txt").read_text().startswith("blackbox-ti[server]")
    assert (folder / "handler.py").is_file()
