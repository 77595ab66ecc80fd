"""The lane: whose work runs when, alone or together, and what becomes of work that fails or is no longer wanted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.wire import Encoder, ImageItem, Sample
from server_stub.batching import Lane, LaneClosedError, QueueFullError
from server_stub.engine import EngineInfo, ImageJob, LossJob, Slice

MICRO_BATCH = 4


class _Work:
    def __init__(self, job: LossJob) -> None:
        self.base = next(iter(job.embeddings.values()))[:, 0, 0]
        self.samples = len(job.samples)
        self.losses = np.full(len(self.base) * self.samples, np.nan, np.float32)


class _Engine:
    """An engine whose loss of row i of candidate b is b's first number plus i; it keeps the steps it was asked for."""

    info = EngineInfo("m", "f", "0" * 64, [Encoder(name="e", dim=1, norm_mean=1, norm_std=0)], 8, "epsilon", 16)
    micro_batch = MICRO_BATCH

    def __init__(self) -> None:
        self.steps: list[list[tuple[float, int]]] = []
        self.threads: set[int] = set()
        self.bad = -1.0
        self.unpreparable = -2.0

    def is_token(self, word: str) -> bool:
        return False

    def prompt_tokens(self, prompt: str, placeholder_token: str, vectors: int) -> int:
        return 1

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        return np.zeros((len(images), 1), np.float32)

    def losses(self, job: LossJob) -> NDArray[np.float32]:
        work = self.prepare(job)
        self.score([Slice(work, 0, len(work.losses))])
        return self.result(work)

    def prepare(self, job: LossJob) -> _Work:
        work = _Work(job)
        if self.unpreparable in work.base:
            raise RuntimeError("cannot be prepared")
        return work

    def score(self, slices: Sequence[Slice]) -> None:
        self.threads.add(threading.get_ident())
        self.steps.append([(float(s.work.base[0]), s.stop - s.start) for s in slices])
        if any(self.bad in s.work.base for s in slices):
            raise RuntimeError("cannot be scored")
        for s in slices:
            rows = np.arange(s.start, s.stop)
            s.work.losses[rows] = s.work.base[rows // s.work.samples] + rows % s.work.samples

    def result(self, work: _Work) -> NDArray[np.float32]:
        return work.losses.reshape(-1, work.samples)

    def images(self, job: ImageJob) -> list[Image.Image]:
        return list(self.pictures(job))

    def pictures(self, job: ImageJob) -> Iterator[Image.Image]:
        for item in job.items:
            self.steps.append([(float(item.seed), 1)])
            yield Image.new("L", (1, 1), item.seed)

    def vocabulary(self, encoder: str) -> tuple[Sequence[str], NDArray[np.float32]]:
        return [], np.zeros((0, 1), np.float32)

    def warm_up(self) -> None:
        pass


def _job(base: float, candidates: int, samples: int) -> LossJob:
    bank = [Sample(image=0, prompt=0, t=0.5, seed=i) for i in range(samples)]
    embeddings = np.full((candidates, 1, 1), base, np.float32)
    return LossJob(None, "<sks>", {"e": embeddings}, ["<sks>"], bank)


def _pictures(seeds: Sequence[int]) -> ImageJob:
    items = [ImageItem(candidate=0, prompt=0, seed=seed) for seed in seeds]
    return ImageJob("<sks>", {"e": np.zeros((1, 1, 1), np.float32)}, ["<sks>"], items, 10, 5.0, "", 8, 8)


@pytest.fixture(name="engine")
def _engine() -> _Engine:
    return _Engine()


@pytest.fixture(name="lane")
def _lane(engine: _Engine) -> Iterator[Lane]:
    lane = Lane(engine, max_queue=8)
    yield lane
    lane.close(10)


def _held(lane: Lane) -> Callable[[], None]:
    """Keep the lane busy until the function returned is called."""
    entered, release = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        release.wait(10)

    lane.submit("holder", 1, block)
    assert entered.wait(10)
    return release.set


def test_losses_come_back_to_whoever_asked(lane: Lane) -> None:
    """Jobs scored in shared steps get their own losses, in their own shape."""
    jobs = [(10.0 * i, 1 + i % 3, 1 + i) for i in range(1, 6)]
    release = _held(lane)
    futures = [lane.score(f"account-{i % 2}", _job(*job)) for i, job in enumerate(jobs)]
    release()
    for (base, candidates, samples), future in zip(jobs, futures, strict=True):
        expected = np.tile(base + np.arange(samples), (candidates, 1))
        np.testing.assert_array_equal(future.result(10), expected)


def test_steps_are_filled_from_several_requests(lane: Lane, engine: _Engine) -> None:
    """Small requests share a micro-batch, and no step has more rows than it holds."""
    release = _held(lane)
    futures = [lane.score(account, _job(base, 1, n)) for account, base, n in (("a", 1, 3), ("b", 2, 2), ("c", 3, 5))]
    release()
    for future in futures:
        future.result(10)
    assert engine.steps == [[(1, 3), (2, 1)], [(3, 4)], [(2, 1), (3, 1)]]
    assert len(engine.threads) == 1


def test_a_small_request_does_not_wait_for_a_large_one(lane: Lane, engine: _Engine) -> None:
    """An account with one small request is served after a step or two of another's large one."""
    release = _held(lane)
    large = lane.score("large", _job(1, 10, 10))
    small = lane.score("small", _job(2, 1, 4))
    release()
    large.result(10)
    assert small.done()
    assert engine.steps.index([(2, 4)]) <= 2
    assert len(engine.steps) == 26


def test_pictures_take_turns_with_losses(lane: Lane, engine: _Engine) -> None:
    """A picture is a step of its own, between which others get theirs in proportion to the forwards."""
    release = _held(lane)
    pictures = lane.paint("painter", _pictures([7, 8, 9]))
    losses = lane.score("scorer", _job(1, 1, 40))
    release()
    assert [picture.getpixel((0, 0)) for picture in pictures.result(10)] == [7, 8, 9]
    losses.result(10)
    at = [engine.steps.index([(float(seed), 1)]) for seed in (7, 8, 9)]
    assert at == [0, 6, 12]


def test_work_whose_client_left_before_its_turn_never_runs(lane: Lane, engine: _Engine) -> None:
    """A cancelled future leaves the queue, its job unscored; one that has begun cannot be cancelled."""
    release = _held(lane)
    gone = lane.score("a", _job(1, 1, 4))
    stays = lane.score("a", _job(2, 1, 4))
    assert gone.cancel()
    release()
    stays.result(10)
    assert engine.steps == [[(2, 4)]]
    assert not stays.cancel()


def test_a_job_that_fails_fails_alone(lane: Lane, engine: _Engine) -> None:
    """A step that fails is done again one request at a time, so only the request at fault fails."""
    release = _held(lane)
    bad, worse = lane.score("a", _job(engine.bad, 1, 9)), lane.score("b", _job(engine.unpreparable, 2, 1))
    good = [lane.score(account, _job(5, 1, 3)) for account in ("a", "b", "c")]
    release()
    for future in good:
        np.testing.assert_array_equal(future.result(10), [[5, 6, 7]])
    for future, message in ((bad, "scored"), (worse, "prepared")):
        with pytest.raises(RuntimeError, match=message):
            future.result(10)
    assert lane.waiting == 0


def test_a_call_that_raises_gives_its_own_error(lane: Lane) -> None:
    """An exception reaches the one who asked, and the lane goes on."""
    with pytest.raises(ZeroDivisionError):
        lane.submit("a", 1, lambda: 1 // 0).result(10)
    assert lane.submit("a", 1, lambda: 7).result(10) == 7


def test_a_full_queue_refuses_with_a_time(lane: Lane) -> None:
    """Beyond `max_queue` waiting tasks the lane says when to come back; dropped work makes room."""
    release = _held(lane)
    futures: list[Future[int]] = [lane.submit("a", 1, lambda: 1) for _ in range(8)]
    with pytest.raises(QueueFullError) as full:
        lane.submit("b", 1, lambda: 1)
    assert full.value.retry_after >= 1
    release()
    assert [future.result(10) for future in futures] == [1] * 8
    assert lane.submit("b", 1, lambda: 2).result(10) == 2


def test_the_time_to_come_back_grows_with_the_work_that_waits() -> None:
    """With a measured rate, the time is that of an average task in the queue."""
    ticks = iter(range(0, 10_000, 10))
    lane = Lane(_Engine(), max_queue=2, clock=lambda: next(ticks))
    lane.score("a", _job(1, 1, 4)).result(10)
    release = _held(lane)
    lane.submit("a", 40, lambda: None)
    lane.submit("a", 40, lambda: None)
    with pytest.raises(QueueFullError) as full:
        lane.submit("a", 1, lambda: None)
    assert full.value.retry_after == pytest.approx(100)
    release()
    lane.close(10)


def test_closing_finishes_what_is_queued_and_takes_no_more(engine: _Engine) -> None:
    """A closed lane refuses new work and still does all it had taken."""
    lane = Lane(engine)
    release = _held(lane)
    futures = [lane.score("a", _job(1, 3, 5)), lane.score("b", _job(2, 1, 1))]
    closer = threading.Thread(target=lane.close)
    closer.start()
    while not lane.closed:
        closer.join(0.001)
    with pytest.raises(LaneClosedError):
        lane.submit("c", 1, lambda: None)
    release()
    closer.join(10)
    assert all(future.done() for future in futures)
    assert lane.waiting == 0


def test_closing_in_a_hurry_cancels_what_has_not_begun(engine: _Engine) -> None:
    """After the time given, work that waits is cancelled, so nobody waits for ever."""
    lane = Lane(engine)
    release = _held(lane)
    waiting = lane.score("a", _job(1, 1, 1))
    lane.close(0.01)
    with pytest.raises(CancelledError):
        waiting.result(10)
    release()
    lane.close(10)
    assert engine.steps == []


def test_calls_can_be_awaited_and_abandoned(lane: Lane) -> None:
    """`run` gives the result to a coroutine, and a cancelled coroutine takes its call out of the queue."""
    ran: list[str] = []

    async def scenario() -> None:
        assert await lane.run("a", 1, lambda: 3) == 3
        release = _held(lane)
        abandoned = asyncio.create_task(lane.run("a", 1, lambda: ran.append("abandoned")))
        await asyncio.sleep(0)
        abandoned.cancel()
        await asyncio.wait([abandoned])
        release()
        await lane.run("a", 1, lambda: ran.append("next"))

    asyncio.run(scenario())
    assert ran == ["next"]
