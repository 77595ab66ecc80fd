"""An endpoint whose every charged call is in the run's book before it is sent."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from blackbox_ti.booked import BookedEndpoint
from blackbox_ti.budget import Caps, Cost
from blackbox_ti.endpoint import Endpoint
from blackbox_ti.errors import (
    BlackboxTIError,
    BudgetSpentError,
    LedgerError,
    OverloadedError,
    RejectedError,
    ResumeError,
)
from blackbox_ti.ledger import Ledger, RunIdentity
from blackbox_ti.wire import ImageItem, ImagesRequest, LossReply, encode_tensor
from tests.fake_host import FakeHost, fake_endpoint, loss_request, png

IDENTITY = RunIdentity(endpoint="http://127.0.0.1:9", settings={}, pictures=[])


def candidates(value: float, count: int = 2) -> NDArray[np.float32]:
    """Return (count, 1, 8) embeddings of one value."""
    return np.full((count, 1, 8), value, np.float32)


class Run:
    """A run in a folder on a fake host, `http` standing between the two where it is given."""

    def __init__(
        self,
        folder: Path,
        host: FakeHost,
        *,
        caps: Caps | None = None,
        http: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.ledger = Ledger(folder / "ledger.sqlite", clock=now)
        self.resumed = self.ledger.begin(IDENTITY, caps or Caps())
        inner = fake_endpoint(host, http=http, on_attempt=self.ledger.record_attempt, clock=clock)
        self.endpoint = BookedEndpoint(inner, self.ledger)
        self.endpoint.describe()
        self.concept = self.endpoint.register_concept([png()])

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.endpoint.close()
        self.ledger.close()

    def ask(self, value: float, label: str = "search/0", key: str | None = None) -> LossReply:
        """Score two candidates on four samples: 8 forwards."""
        return self.endpoint.losses(loss_request(self.concept, candidates(value)), label=label, key=key)


def test_a_repeated_run_asks_nothing_twice(tmp_path: Path) -> None:
    """The same calls in the same order are answered from the book, bit for bit, without the wire."""
    host = FakeHost()
    with Run(tmp_path, host) as run:
        first = [run.ask(v, f"search/{v}") for v in range(3)]
    with Run(tmp_path, host) as run:
        assert run.resumed
        second = [run.ask(v, f"search/{v}") for v in range(3)]
        assert run.ledger.faults() == []
    assert second == first
    assert host.requests.count(("POST", "/v1/loss")) == 3
    assert host.forwards == 24


def test_pictures_are_booked_and_replayed_too(tmp_path: Path) -> None:
    """A picture is paid for once however often the run is repeated."""
    host = FakeHost()
    request = ImagesRequest(
        placeholder_token="<sks>",
        embeddings={"text": encode_tensor(candidates(0, 1))},
        prompts=["<sks>"],
        items=[ImageItem(candidate=0, prompt=0, seed=3)],
    )
    replies = []
    for _ in range(2):
        with Run(tmp_path, host) as run:
            replies.append(run.endpoint.images(request, label="pictures"))
            assert run.ledger.committed().forwards == 50
    assert replies[0] == replies[1]
    assert host.forwards == 50


def test_the_same_question_twice_in_a_row_is_two_calls(tmp_path: Path) -> None:
    """Without keys, calls of a label are told apart by their order, so a re-asked question is really asked."""
    host = FakeHost()
    with Run(tmp_path, host) as run:
        run.ask(1.0)
        run.ask(1.0)
    assert host.forwards == 16


def test_the_same_key_is_the_same_call(tmp_path: Path) -> None:
    """With a key, asking again is answered from the book."""
    host = FakeHost()
    with Run(tmp_path, host) as run:
        assert run.ask(1.0, key="a") == run.ask(1.0, key="a")
    assert host.forwards == 8


def test_a_search_that_does_not_repeat_itself_is_a_resume_error(tmp_path: Path) -> None:
    """Another question under the name of a booked one is refused before the wire, and says what differs."""
    host = FakeHost()
    with Run(tmp_path, host) as run:
        run.ask(1.0)
    with Run(tmp_path, host) as run, pytest.raises(ResumeError, match="embeddings differ"):
        run.ask(2.0)
    assert host.forwards == 8


def test_a_changed_model_is_a_resume_error(tmp_path: Path) -> None:
    """A host that serves other weights than before is found at once."""
    with Run(tmp_path, FakeHost()):
        pass
    with pytest.raises(ResumeError, match="another model"):
        Run(tmp_path, FakeHost(fingerprint="0" * 64))


def test_a_cap_stops_before_the_wire(tmp_path: Path) -> None:
    """A call that does not fit is refused whole: nothing is sent, nothing is shrunk."""
    host = FakeHost()
    with Run(tmp_path, host, caps=Caps(forwards=20)) as run:
        run.ask(1.0)
        run.ask(2.0)
        with pytest.raises(BudgetSpentError):
            run.ask(3.0)
        assert run.ledger.committed().forwards == 16 == host.forwards
    assert host.requests.count(("POST", "/v1/loss")) == 2


def test_money_is_capped_at_the_hosts_prices(tmp_path: Path) -> None:
    """The card's unit prices make the price of a call: 8 forwards and 2 queries."""
    host = FakeHost()
    price = 8 * 3 + 2 * 7
    with Run(tmp_path, host, caps=Caps(price_micros=2 * price - 1)) as run:
        run.ask(1.0)
        with pytest.raises(BudgetSpentError, match="money"):
            run.ask(2.0)
        assert run.ledger.committed() == Cost(8, 2, price)


def test_what_a_rejected_candidate_does_not_cost_is_free_again(tmp_path: Path) -> None:
    """The reservation is the whole request, the settlement what was charged."""
    host = FakeHost(max_norm=5.0)
    embeddings = candidates(0.0)
    embeddings[1] = 100.0
    with Run(tmp_path, host) as run:
        run.endpoint.losses(loss_request(run.concept, embeddings), label="x")
        assert run.ledger.committed().forwards == 4 == host.forwards


class Faults(httpx.BaseTransport):
    """A way to a host that spoils the charged calls it is told to: `before` or `after` the host acted, or a refusal."""

    def __init__(self, host: FakeHost, *plan: str) -> None:
        self.host = host
        self.plan = list(plan)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on, or fail as planned."""
        request.read()
        fault = self.plan.pop(0) if self.plan and request.url.path == "/v1/loss" else "none"
        if fault == "before":
            raise httpx.ConnectError("refused")
        if fault == "crash":
            self.host.handle(request)
        if fault in {"crash", "lost"}:
            raise KeyboardInterrupt
        if fault.isdigit():
            return httpx.Response(int(fault))
        response = self.host.handle(request)
        if fault == "after":
            raise httpx.ReadError("reset")
        return response


def test_a_reply_lost_on_the_way_is_replayed_and_charged_once(tmp_path: Path) -> None:
    """Retries go under one key, and the host charges one operation."""
    host = FakeHost()
    with Run(tmp_path, host, http=Faults(host, "before", "after", "503", "after")) as run:
        run.ask(1.0)
        assert [a.error for _, a in run.ledger.attempts() if a.idempotency_key][:-1] == [
            "connect",
            "connection",
            "status",
            "connection",
        ]
        assert run.ledger.committed().forwards == 8 == host.forwards


@pytest.mark.parametrize(("fault", "forwards"), [("crash", 8), ("after401", 8)])
def test_an_interrupted_call_is_asked_again_under_its_key(tmp_path: Path, fault: str, forwards: int) -> None:
    """A call whose reply was lost with the process is sent again by the next, and charged once."""
    host = FakeHost()
    plan = ["crash"] if fault == "crash" else ["after", "401"]
    with Run(tmp_path, host, http=Faults(host, *plan)) as run:
        with pytest.raises(KeyboardInterrupt if fault == "crash" else BlackboxTIError):
            run.ask(1.0)
        (operation,) = run.ledger.operations()
        assert operation.state in {"reserved", "unknown"}
        assert run.ledger.committed().forwards == 8
    with Run(tmp_path, host) as run:
        run.ask(1.0)
        (operation,) = run.ledger.operations()
        assert operation.state == "settled"
    assert host.forwards == forwards
    assert len(host.receipts) == 1


@pytest.mark.parametrize(("fault", "state"), [("400", "refused"), ("401", "refused"), ("501", "unknown")])
def test_a_refusal_frees_the_reservation_only_where_it_is_certain(tmp_path: Path, fault: str, state: str) -> None:
    """What the request itself is blamed for was not charged; a failure of the host's may have been."""
    host = FakeHost()
    with Run(tmp_path, host, http=Faults(host, fault)) as run:
        with pytest.raises(BlackboxTIError):
            run.ask(1.0)
        (operation,) = run.ledger.operations()
        assert operation.state == state
        assert run.ledger.committed().forwards == (0 if state == "refused" else 8)


def test_a_refused_call_can_be_asked_again(tmp_path: Path) -> None:
    """After a top-up at the host, the same run goes on, under a fresh key."""
    host = FakeHost(max_forwards=0)
    with Run(tmp_path, host) as run, pytest.raises(BudgetSpentError):
        run.ask(1.0)
    host.max_forwards = None
    with Run(tmp_path, host) as run:
        run.ask(1.0)
    assert host.forwards == 8


def test_a_concept_the_host_lost_is_registered_again(tmp_path: Path) -> None:
    """A host that forgot the pictures gets them again, and the call goes on under its key."""
    host = FakeHost()
    with Run(tmp_path, host) as run:
        host.concepts.clear()
        run.ask(1.0)
        assert run.ledger.committed().forwards == 8 == host.forwards
        with pytest.raises(RejectedError):
            run.endpoint.losses(loss_request("never registered", candidates(0)), label="x")


def test_a_charge_known_by_its_receipt_alone_gets_its_reply(tmp_path: Path) -> None:
    """An operation the audit settled without a reply is asked for again and not charged twice."""
    host = FakeHost()
    with Run(tmp_path, host, http=Faults(host, "crash")) as run:
        with pytest.raises(KeyboardInterrupt):
            run.ask(1.0)
        (operation,) = run.ledger.operations()
        receipt = host.receipts[0].model_dump_json()
        run.ledger.settle(operation, charged=Cost(8, 2, 38), reply=None, receipt=receipt)
    with Run(tmp_path, host) as run:
        assert run.ask(1.0).charge.forwards == 8
        assert run.ledger.committed() == Cost(8, 2, 38)
    assert len(host.receipts) == 1


DAY = 86_400.0


@pytest.mark.parametrize(("fault", "charged"), [("crash", True), ("lost", False)])
def test_what_was_interrupted_over_a_day_ago_is_asked_anew(tmp_path: Path, fault: str, *, charged: bool) -> None:
    """The host's receipts say whether it was charged: both charges are in the book, or the one that was made."""
    host = FakeHost()
    now = [1_700_000_000.0]
    with Run(tmp_path, host, http=Faults(host, fault), now=lambda: now[0]) as run, pytest.raises(KeyboardInterrupt):
        run.ask(1.0)
    host.stored.clear()
    now[0] += DAY + 1
    for _ in range(2):
        with Run(tmp_path, host, now=lambda: now[0]) as run:
            run.ask(1.0)
            assert run.ledger.committed().forwards == host.forwards == (16 if charged else 8)
            states = {o.name: o.state for o in run.ledger.operations()}
            assert states == dict.fromkeys(["search/0#1", "search/0#1~"] if charged else ["search/0#1"], "settled")


class WithoutReceipts:
    """An endpoint whose host shows no receipts."""

    def __init__(self, inner: Endpoint) -> None:
        self.describe = inner.describe
        self.register_concept = inner.register_concept
        self.delete_concept = inner.delete_concept
        self.losses = inner.losses
        self.images = inner.images
        self.vocabulary = inner.vocabulary
        self.usage = inner.usage
        self.close = inner.close


def test_without_receipts_an_old_interruption_cannot_be_settled(tmp_path: Path) -> None:
    """Where nobody can tell whether it was charged, nothing is sent."""
    host = FakeHost()
    now = [1_700_000_000.0]
    with Run(tmp_path, host, http=Faults(host, "lost"), now=lambda: now[0]) as run, pytest.raises(KeyboardInterrupt):
        run.ask(1.0)
    now[0] += DAY + 1
    with Run(tmp_path, host, now=lambda: now[0]) as run:
        endpoint = BookedEndpoint(WithoutReceipts(fake_endpoint(host)), run.ledger)
        with pytest.raises(ResumeError, match="over a day ago"):
            endpoint.losses(loss_request(run.concept, candidates(1.0)), label="search/0")
    assert host.forwards == 0


def test_an_endpoint_without_attempts_is_judged_by_its_errors(tmp_path: Path) -> None:
    """Where no attempts are recorded, a refusal is one by its kind."""
    host = FakeHost(max_forwards=0)
    with Run(tmp_path, host) as run:
        endpoint = BookedEndpoint(WithoutReceipts(fake_endpoint(host)), run.ledger)
        with pytest.raises(BudgetSpentError):
            endpoint.losses(loss_request(run.concept, candidates(1.0)), label="x")
        assert [o.state for o in run.ledger.operations()] == ["refused"]


def test_what_costs_nothing_is_passed_on(tmp_path: Path) -> None:
    """Vocabulary, usage and deletion go straight to the host."""
    host = FakeHost()
    with Run(tmp_path, host) as run:
        vocabulary = run.endpoint.vocabulary("text")
        assert vocabulary is not None
        assert tuple(vocabulary.tokens) == host.words
        assert run.endpoint.usage().forwards == 0
        run.endpoint.delete_concept(run.concept)
        assert host.concepts == {}
        assert run.ledger.operations() == []


def test_a_second_payment_is_under_the_cap_too(tmp_path: Path) -> None:
    """Paying again for a lost reply does not go over."""
    host = FakeHost()
    now = [1_700_000_000.0]
    caps = Caps(forwards=15)
    crashing = Faults(host, "crash")
    with Run(tmp_path, host, caps=caps, http=crashing, now=lambda: now[0]) as run, pytest.raises(KeyboardInterrupt):
        run.ask(1.0)
    now[0] += DAY + 1
    with Run(tmp_path, host, caps=caps, now=lambda: now[0]) as run, pytest.raises(BudgetSpentError):
        run.ask(1.0)
    assert host.forwards == 8


def test_calls_side_by_side_carry_their_own_names(tmp_path: Path) -> None:
    """Threads that give keys may finish in any order: the resumed run gets each call its own reply."""
    host = FakeHost()

    def sweep(run: Run, order: list[int]) -> dict[int, LossReply]:
        replies: dict[int, LossReply] = {}

        def one(n: int) -> None:
            replies[n] = run.ask(float(n), key=f"search/0/{n}")

        threads = [threading.Thread(target=one, args=(n,)) for n in order]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return replies

    with Run(tmp_path, host) as run:
        first = sweep(run, list(range(12)))
    with Run(tmp_path, host) as run:
        assert sweep(run, list(range(11, -1, -1))) == first
    assert host.forwards == 12 * 8


def test_threads_together_stop_at_the_cap(tmp_path: Path) -> None:
    """Of calls made at once, those that fit are made and the others refused."""
    host = FakeHost()
    refused: list[int] = []
    with Run(tmp_path, host, caps=Caps(forwards=50)) as run:

        def one(n: int) -> None:
            try:
                run.ask(float(n), key=str(n))
            except BudgetSpentError:
                refused.append(n)

        threads = [threading.Thread(target=one, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert run.ledger.committed().forwards == 48 == host.forwards
    assert len(refused) == 10


def test_a_host_that_stays_busy_leaves_the_call_unknown(tmp_path: Path) -> None:
    """Giving up is not knowing."""
    host = FakeHost()
    clock = [0.0]

    def busy(request: httpx.Request) -> httpx.Response:
        clock[0] += 1.0
        return host.handle(request) if request.url.path != "/v1/loss" else httpx.Response(503)

    with Run(tmp_path, host, http=httpx.MockTransport(busy), clock=lambda: clock[0]) as run:
        with pytest.raises(OverloadedError):
            run.ask(1.0)
        assert [o.state for o in run.ledger.operations()] == ["unknown"]


def test_a_planted_key_is_in_no_byte_of_the_book(tmp_path: Path) -> None:
    """The ledger's files hold no API key, even after refusals and retries."""
    planted = "planted-77e1c0"
    host = FakeHost(api_key=planted)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        inner = fake_endpoint(
            host, http=Faults(host, "500", "after"), api_key=planted, on_attempt=ledger.record_attempt
        )
        endpoint = BookedEndpoint(inner, ledger)
        ledger.begin(IDENTITY, Caps())
        concept = endpoint.register_concept([png()])
        endpoint.losses(loss_request(concept, candidates(0)), label="x")
        host.api_key = "revoked"
        with pytest.raises(BlackboxTIError) as caught:
            endpoint.losses(loss_request(concept, candidates(1)), label="x")
        files = [file.read_bytes() for file in tmp_path.iterdir()]
    assert files
    assert not any(planted.encode() in content for content in files)
    assert planted not in repr(caught.value) + str(caught.value) + repr(vars(endpoint)) + repr(vars(ledger))


def test_a_reply_in_the_book_that_does_not_decode_is_a_ledger_error(tmp_path: Path) -> None:
    """A damaged reply is never handed to the search."""
    host = FakeHost()
    with Run(tmp_path, host) as run:
        run.ask(1.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection, connection:
        connection.execute("UPDATE states SET reply = ?", (json.dumps({"x": 1}).encode(),))
    with Run(tmp_path, host) as run, pytest.raises(LedgerError, match="audit"):
        run.ask(1.0)
