"""Tests of the endpoint for hosts of the inference protocol, against a foreign server and the mapping to it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blackbox_ti.attempt import Attempt
from blackbox_ti.booked import BookedEndpoint
from blackbox_ti.budget import Caps
from blackbox_ti.endpoint import Guarantees, guarantees_of
from blackbox_ti.errors import (
    BlackboxTIError,
    BudgetSpentError,
    InputError,
    OverloadedError,
    ProtocolError,
    RejectedError,
)
from blackbox_ti.ledger import Ledger, RunIdentity
from blackbox_ti.oip_endpoint import OipEndpoint
from blackbox_ti.oip_mapping import OipMapping
from blackbox_ti.wire import ImageItem, ImagesRequest, LossRequest, Sample, decode_tensor, encode_tensor
from tests.fake_host import png
from tests.fake_oip_host import DIM, ROWS, FakeOipHost, expected_loss, files

URL = "http://127.0.0.1:9"
ENCODERS = {"clip": {"norm_mean": 0.4, "norm_std": 0.1}}
PICTURES = [png((200, 30, 30)), png((0, 0, 90))]
GRID_MAPPING: dict[str, Any] = {
    "resolution": 8,
    "encoders": ENCODERS,
    "loss": {
        "model": "score",
        "inputs": {
            "embeddings": {"clip": "emb"}, "prompts": "text", "prompt": "which", "t": "time", "seed": "noise",
            "pictures": "photo", "image": "photo_index",
        },
        "outputs": {"losses": "out"},
    },
    "images": {
        "model": "draw",
        "inputs": {
            "embeddings": {"clip": "emb"}, "candidate": "which_emb", "prompts": "text", "seed": "noise",
            "num_inference_steps": "steps",
        },
        "outputs": {"images": "picture"},
        "guidance_scale": 3.0,
    },
}  # fmt: skip
ROWS_MAPPING: dict[str, Any] = {
    "encoders": ENCODERS,
    "loss": {
        "model": "score",
        "layout": "rows",
        "inputs": {
            "embeddings": {"clip": "emb"}, "prompts": "text", "t": "time", "seed": "noise", "pictures": "photo",
        },
        "outputs": {"losses": "out"},
    },
}  # fmt: skip


def endpoint(host: FakeOipHost, mapping: dict[str, Any] | None = None, **options: Any) -> OipEndpoint:
    """Return an endpoint over a fake host, whose waits take no time."""
    read = OipMapping.model_validate(mapping or GRID_MAPPING)
    return OipEndpoint(URL, mapping=read, http=host.transport(), sleep=lambda _: None, **options)


def loss_request(concept: str, values: Any) -> LossRequest:
    """Return a request on three samples of two pictures and prompts."""
    bank = [
        Sample(image=0, prompt=0, t=0.25, seed=7),
        Sample(image=1, prompt=1, t=0.5, seed=2**40),
        Sample(image=1, prompt=0, t=0.75, seed=3),
    ]
    tensor = encode_tensor(np.asarray(values, np.float32))
    return LossRequest(
        concept=concept,
        placeholder_token="<x>",
        embeddings={"clip": tensor},
        prompts=["a <x>", "one <x>"],
        samples=bank,
    )


def images_request(**changes: Any) -> ImagesRequest:
    """Return a request for two pictures."""
    fields: dict[str, Any] = {
        "placeholder_token": "<x>",
        "embeddings": {"clip": encode_tensor(np.ones((2, 1, DIM), np.float32))},
        "prompts": ["a <x>"],
        "items": [ImageItem(candidate=c, prompt=0, seed=5 + c) for c in range(2)],
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
    }
    return ImagesRequest(**fields | changes)


def expected(request: LossRequest, values: Any) -> Any:
    """Return the losses by the fake host's formula, computed apart from it."""
    return [
        [expected_loss(e, s.t, s.seed, request.prompts[s.prompt], PICTURES[s.image]) for s in request.samples]
        for e in np.asarray(values, np.float32)
    ]


VALUES = np.linspace(-1, 1, 3 * DIM).reshape(3, 1, DIM)


@pytest.mark.parametrize(("models", "mapping"), [(None, GRID_MAPPING), (ROWS, ROWS_MAPPING)], ids=["grid", "rows"])
@pytest.mark.parametrize("extensions", [(), ("binary_tensor_data",)], ids=["json", "binary"])
def test_losses_come_from_the_tensors_the_mapping_names(
    models: Any, mapping: dict[str, Any], extensions: tuple[str, ...]
) -> None:
    """In either layout, as JSON and as bytes, each candidate is scored on each sample's picture, prompt, t and seed."""
    host = FakeOipHost(extensions=extensions) if models is None else FakeOipHost(models=models, extensions=extensions)
    asked = endpoint(host, mapping)
    request = loss_request(asked.register_concept(PICTURES), VALUES)
    reply = asked.losses(request, label="x")
    assert reply.losses is not None
    np.testing.assert_allclose(decode_tensor(reply.losses), expected(request, VALUES), rtol=1e-5)
    assert (reply.charge.forwards, reply.charge.queries) == (9, 3)
    binary = host.inferences[0].headers.get("Inference-Header-Content-Length") is not None
    assert binary is bool(extensions)


@pytest.mark.parametrize("change", [lambda outputs: outputs, files], ids=["pixels", "files"])
def test_pictures_come_from_the_tensors_the_mapping_names(change: Any) -> None:
    """As pixels or as files they become PNG files of the items in order; steps are the request's."""
    asked = endpoint(FakeOipHost(change=change))
    reply = asked.images(images_request(), label="x")
    colours = []
    for image in reply.images:
        assert image is not None
        with Image.open(io.BytesIO(base64.b64decode(image))) as opened:
            colours.append(opened.getpixel((0, 0)))
    assert colours == [(0, 5, 4), (1, 6, 4)]
    assert (reply.charge.forwards, reply.charge.queries) == (16, 2)


def test_guidance_that_is_the_hosts_own_cannot_be_another() -> None:
    """The cost would be wrong: refused before anything is sent."""
    host = FakeOipHost()
    with pytest.raises(InputError, match="guidance_scale 3, not 5"):
        endpoint(host).images(images_request(guidance_scale=5.0), label="x")
    assert host.inferences == []


def test_the_card_comes_from_metadata_and_mapping() -> None:
    """The width from the model's shapes, the norms from the mapping, a fingerprint that another model would change."""
    card = endpoint(FakeOipHost()).describe()
    assert [(e.name, e.dim, e.norm_mean) for e in card.encoders] == [("clip", DIM, 0.4)]
    assert (card.resolution, card.objectives, card.vocabulary) == (8, ["loss", "images"], False)
    rows = endpoint(FakeOipHost(models=ROWS), ROWS_MAPPING).describe()
    assert (rows.resolution, rows.objectives) == (8, ["loss"])
    assert rows.fingerprint != card.fingerprint == endpoint(FakeOipHost()).describe().fingerprint


def test_a_foreign_host_guarantees_nothing() -> None:
    """No idempotency, no exact cost, no receipts: said after it was asked as before."""
    asked = endpoint(FakeOipHost())
    asked.describe()
    assert guarantees_of(asked) == Guarantees(idempotency=False, exact_cost=False, receipts=False)


def test_what_a_candidate_without_a_finite_loss_cost_counts() -> None:
    """It is rejected alone; a host that tells no cost is taken to have worked on all that was sent."""

    def spoil(outputs: dict[str, Any]) -> dict[str, Any]:
        outputs["out"][1, 2] = np.nan
        return outputs

    asked = endpoint(FakeOipHost(change=spoil, extensions=("binary_tensor_data",)))
    reply = asked.losses(loss_request(asked.register_concept(PICTURES), VALUES), label="x")
    assert (reply.candidates, [r.candidate for r in reply.rejected], reply.charge.forwards) == ([0, 2], [1], 9)


def down(times: int, status: int = 503) -> Any:
    """Return a fault that answers the first inferences with an error."""
    left = [times]

    def fault(request: httpx.Request) -> httpx.Response | None:
        if not request.url.path.endswith("/infer") or left[0] == 0:
            return None
        left[0] -= 1
        return httpx.Response(status, json={"error": "busy"})

    return fault


def test_an_attempt_of_unknown_outcome_is_not_repeated() -> None:
    """A host without idempotency may have worked on it."""
    host = FakeOipHost(fault=down(1))
    asked = endpoint(host)
    with pytest.raises(OverloadedError):
        asked.losses(loss_request(asked.register_concept(PICTURES), VALUES), label="x")
    assert len(host.inferences) == 1


def test_a_refusal_that_had_no_effect_is_repeated() -> None:
    """Too many requests, refused before any work, are asked again."""
    host = FakeOipHost(fault=down(2, 429))
    asked = endpoint(host)
    asked.losses(loss_request(asked.register_concept(PICTURES), VALUES), label="x")
    assert len(host.inferences) == 3


def test_a_host_that_declares_idempotency_is_asked_again_under_the_same_key() -> None:
    """As our own server does."""
    host = FakeOipHost(fault=down(2), extensions=("blackbox_ti_idempotency",))
    asked = endpoint(host)
    asked.losses(loss_request(asked.register_concept(PICTURES), VALUES), label="x", key="k")
    assert [r.headers["Idempotency-Key"] for r in host.inferences] == ["k"] * 3
    assert len({r.content for r in host.inferences}) == 1


def test_a_host_that_declares_its_charges_is_held_to_the_exact_cost() -> None:
    """The charge in the reply's parameters is taken where it is exact, and nothing else is."""
    exact = {"forwards": 9, "queries": 3, "price_micros": 0}
    host = FakeOipHost(extensions=("blackbox_ti_charge",), parameters=exact)
    asked = endpoint(host)
    request = loss_request(asked.register_concept(PICTURES), VALUES)
    assert asked.losses(request, label="x").charge.forwards == 9
    for wrong in ({}, exact | {"forwards": 10}, exact | {"queries": "3"}, exact | {"forwards": True}):
        host.parameters = wrong
        with pytest.raises(ProtocolError):
            asked.losses(request, label="x")


class Booked:
    """A booked endpoint over a fake host, with caps."""

    def __init__(self, folder: Path, host: FakeOipHost, forwards: int) -> None:
        self.ledger = Ledger(folder / "book.sqlite")
        self.ledger.begin(RunIdentity(endpoint=URL, settings={}, pictures=[]), Caps(forwards=forwards))
        self.endpoint = BookedEndpoint(endpoint(host, on_attempt=self.ledger.record_attempt), self.ledger)
        self.endpoint.describe()
        self.concept = self.endpoint.register_concept(PICTURES)

    def ask(self, key: str = "one") -> Any:
        """Score three candidates on three samples: 9 forwards."""
        return self.endpoint.losses(loss_request(self.concept, VALUES), label="search/1", key=key)

    def ask_until_done(self) -> Any:
        """Ask again as a user would who repeats the command."""
        for _ in range(10):
            try:
                return self.ask()
            except OverloadedError:
                continue
        raise AssertionError("never answered")


@settings(max_examples=15)
@given(failures=st.integers(0, 6), cap=st.integers(0, 60))
def test_what_is_sent_never_exceeds_the_cap(tmp_path_factory: pytest.TempPathFactory, failures: int, cap: int) -> None:
    """However often the host fails without saying whether it worked, each request sent is paid for in the book."""
    host = FakeOipHost(fault=down(failures))
    run = Booked(tmp_path_factory.mktemp("run"), host, cap)
    try:
        run.ask_until_done()
        answered = True
    except BudgetSpentError:
        answered = False
    sent = 9 * len(host.inferences)
    assert sent <= cap
    assert run.ledger.committed().forwards == sent
    assert answered is (9 * (failures + 1) <= cap)
    run.ledger.close()


def test_an_answer_in_the_book_is_not_asked_for_again(tmp_path: Path) -> None:
    """Replay needs no idempotency of the host."""
    host = FakeOipHost()
    run = Booked(tmp_path, host, 100)
    assert run.ask() == run.ask()
    assert len(host.inferences) == 1
    run.ledger.close()


def test_attempts_are_in_the_book_under_their_key(tmp_path: Path) -> None:
    """Path, status and effect of every inference, and its operation."""
    host = FakeOipHost(fault=down(1, 429))
    run = Booked(tmp_path, host, 100)
    run.ask()
    tried: list[Attempt] = [a for _, a in run.ledger.attempts() if a.path.endswith("/infer")]
    assert [(a.status, a.effect) for a in tried] == [(429, "none"), (200, "done")]
    assert {a.idempotency_key for a in tried} <= set(run.ledger.keys())
    run.ledger.close()


WRONG_MAPPINGS = [
    (("loss", "inputs", "t"), "tome", "names the input 'tome'"),
    (("loss", "outputs", "losses"), "loss", "names the output 'loss'"),
    (("loss", "model"), "other", "no model 'other'"),
    (("encoders", "clip", "dim"), 5, "4 and 5"),
    (("resolution",), None, "resolution"),
    (("encoders",), {}, r"encoders\.clip"),
]


@pytest.mark.parametrize(("where", "value", "told"), WRONG_MAPPINGS)
def test_where_mapping_and_metadata_disagree_the_user_is_told(where: tuple[str, ...], value: Any, told: str) -> None:
    """A typed error names the entry, before anything is charged."""
    mapping = json.loads(json.dumps(GRID_MAPPING))
    entry = mapping
    for part in where[:-1]:
        entry = entry[part]
    entry[where[-1]] = value
    host = FakeOipHost()
    if where == ("resolution",):
        host = FakeOipHost(models={"score": host.models["score"]})
        del mapping["images"]
    with pytest.raises(InputError, match=told):
        endpoint(host, mapping).describe()
    assert host.inferences == []


def test_an_input_that_the_mapping_leaves_out_is_an_error_unless_it_says_so() -> None:
    """Nothing is sent that the host would refuse."""
    mapping = json.loads(json.dumps(GRID_MAPPING))
    del mapping["loss"]["inputs"]["prompt"]
    with pytest.raises(InputError, match="which"):
        endpoint(FakeOipHost(), mapping).describe()
    mapping["loss"]["unused"] = ["which"]
    endpoint(FakeOipHost(), mapping).describe()


def test_without_a_mapping_a_foreign_host_cannot_be_used() -> None:
    """The user is told which option is missing."""
    asked = OipEndpoint(URL, http=FakeOipHost().transport(), sleep=lambda _: None)
    with pytest.raises(InputError, match="--mapping"):
        asked.describe()


@pytest.mark.parametrize(
    "answer", [httpx.Response(404), httpx.Response(200, text="<html>"), httpx.Response(200, json=[])]
)
def test_what_does_not_speak_the_protocol_is_said_to(answer: httpx.Response) -> None:
    """A wrong address is found out by its first answer."""
    asked = endpoint(FakeOipHost(fault=lambda _: httpx.Response(answer.status_code, content=answer.content)))
    with pytest.raises(ProtocolError, match="does not speak"):
        asked.describe()


def test_a_host_that_is_not_ready_is_waited_for() -> None:
    """Its models may be loading."""
    left = [2]

    def loading(request: httpx.Request) -> httpx.Response | None:
        if request.url.path != "/v2/health/ready" or left[0] == 0:
            return None
        left[0] -= 1
        return httpx.Response(503)

    assert endpoint(FakeOipHost(fault=loading)).describe().resolution == 8


def test_a_refusal_tells_the_hosts_reason() -> None:
    """The protocol's `error` reaches the user."""
    asked = endpoint(FakeOipHost(fault=down(1, 400)))
    with pytest.raises(RejectedError, match="busy"):
        asked.losses(loss_request(asked.register_concept(PICTURES), VALUES), label="x")


SPOILED = [
    lambda _: {},
    lambda o: {"out": o["out"][:2]},
    lambda o: {"out": o["out"].astype(np.int64)},
    lambda o: {"other": o["out"]},
]


@pytest.mark.parametrize("change", SPOILED)
def test_outputs_that_do_not_answer_are_protocol_errors(change: Any) -> None:
    """Missing, short, or of another datatype."""
    asked = endpoint(FakeOipHost(change=change))
    with pytest.raises(ProtocolError):
        asked.losses(loss_request(asked.register_concept(PICTURES), VALUES), label="x")


@pytest.mark.parametrize(
    "change",
    [
        lambda o: {"picture": o["picture"][:1]},
        lambda o: {"picture": o["picture"][..., :1]},
        lambda o: {"picture": o["picture"][:, :4]},
        lambda _: {"picture": np.full((2, 8, 8, 3), np.nan)},
        lambda _: {"picture": np.full((2, 8, 8, 3), 300, np.int32)},
        lambda _: {"picture": np.array([b"no", b"picture"], dtype=object)},
        lambda _: {"picture": np.zeros((2, 8, 8, 3), dtype=bool)},
    ],
)
def test_pictures_that_are_none_are_protocol_errors(change: Any) -> None:
    """Too few, of another size, not finite, out of range, or broken files."""
    asked = endpoint(FakeOipHost(change=change, extensions=("binary_tensor_data",)))
    with pytest.raises(ProtocolError):
        asked.images(images_request(), label="x")


def test_a_reply_to_another_request_is_refused() -> None:
    """The id has to be the one that was sent."""
    other = {"model_name": "score", "id": "other", "outputs": []}
    asked = endpoint(FakeOipHost(fault=lambda r: httpx.Response(200, json=other) if "infer" in r.url.path else None))
    with pytest.raises(ProtocolError, match="another request"):
        asked.losses(loss_request(asked.register_concept(PICTURES), VALUES), label="x")


@settings(max_examples=60)
@given(body=st.binary(max_size=200), length=st.one_of(st.none(), st.integers(-1, 300)))
def test_whatever_a_host_answers_only_typed_errors_are_raised(body: bytes, length: int | None) -> None:
    """Random bytes under any header length never raise anything but this package's errors."""
    headers = {} if length is None else {"Inference-Header-Content-Length": str(length)}
    answer = lambda r: httpx.Response(200, content=body, headers=headers) if "infer" in r.url.path else None  # noqa: E731
    asked = endpoint(FakeOipHost(fault=answer))
    with pytest.raises(BlackboxTIError):
        asked.losses(loss_request(asked.register_concept(PICTURES), VALUES), label="x")


def test_a_concept_that_was_removed_is_sent_no_more() -> None:
    """The pictures are this process's alone, and forgotten when they are removed."""
    host = FakeOipHost()
    asked = endpoint(host)
    concept = asked.register_concept(PICTURES)
    asked.delete_concept(concept)
    asked.delete_concept(concept)
    with pytest.raises(InputError, match="register"):
        asked.losses(loss_request(concept, VALUES), label="x")
    assert host.inferences == []


def test_usage_is_what_the_calls_came_to() -> None:
    """Hosts keep no account: the endpoint adds up its own."""
    asked = endpoint(FakeOipHost())
    asked.losses(loss_request(asked.register_concept(PICTURES), VALUES), label="x")
    asked.images(images_request(), label="x")
    assert (asked.usage().forwards, asked.usage().queries) == (25, 5)
    assert asked.vocabulary("clip") is None


def test_the_api_key_is_sent_and_not_told() -> None:
    """As a bearer token on every request; never in an error."""
    seen = []

    def fault(request: httpx.Request) -> httpx.Response | None:
        seen.append(request.headers.get("authorization"))
        return None

    asked = endpoint(FakeOipHost(fault=fault), api_key="s3cret")
    asked.describe()
    assert set(seen) == {"Bearer s3cret"}
    assert "s3cret" not in repr(vars(asked))
