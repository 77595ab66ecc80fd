"""The lane: whose work runs when, alone or together, and what becomes of work that fails or is no longer wanted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest

from server_stub.batching import Lane, LaneClosedError, QueueFullError
from tests.server_stub.stepped_engine import SteppedFakeEngine, image_job, loss_job


@pytest.fixture(name="engine")
def _engine() -> SteppedFakeEngine:
    return SteppedFakeEngine()


@pytest.fixture(name="lane")
def _lane(engine: SteppedFakeEngine) -> Iterator[Lane]:
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
    futures = [lane.score(f"account-{i % 2}", loss_job(*job)) for i, job in enumerate(jobs)]
    release()
    for (base, candidates, samples), future in zip(jobs, futures, strict=True):
        expected = np.tile(base + np.arange(samples), (candidates, 1))
        np.testing.assert_array_equal(future.result(10), expected)


def test_steps_are_filled_from_several_requests(lane: Lane, engine: SteppedFakeEngine) -> None:
    """Small requests share a micro-batch, and no step has more rows than it holds."""
    release = _held(lane)
    futures = [
        lane.score(account, loss_job(base, 1, n)) for account, base, n in (("a", 1, 3), ("b", 2, 2), ("c", 3, 5))
    ]
    release()
    for future in futures:
        future.result(10)
    assert engine.steps == [[(1, 3), (2, 1)], [(3, 4)], [(2, 1), (3, 1)]]
    assert len(engine.threads) == 1


def test_a_small_request_does_not_wait_for_a_large_one(lane: Lane, engine: SteppedFakeEngine) -> None:
    """An account with one small request is served after a step or two of another's large one."""
    release = _held(lane)
    large = lane.score("large", loss_job(1, 10, 10))
    small = lane.score("small", loss_job(2, 1, 4))
    release()
    large.result(10)
    assert small.done()
    assert engine.steps.index([(2, 4)]) <= 2
    assert len(engine.steps) == 26


def test_pictures_take_turns_with_losses(lane: Lane, engine: SteppedFakeEngine) -> None:
    """A picture is a step of its own, between which others get theirs in proportion to the forwards."""
    release = _held(lane)
    pictures = lane.paint("painter", image_job([7, 8, 9]))
    losses = lane.score("scorer", loss_job(1, 1, 40))
    release()
    assert [picture.getpixel((0, 0)) for picture in pictures.result(10)] == [7, 8, 9]
    losses.result(10)
    at = [engine.steps.index([(float(seed), 1)]) for seed in (7, 8, 9)]
    assert at == [0, 6, 12]


def test_work_whose_client_left_before_its_turn_never_runs(lane: Lane, engine: SteppedFakeEngine) -> None:
    """A cancelled future leaves the queue, its job unscored; one that has begun cannot be cancelled."""
    release = _held(lane)
    gone = lane.score("a", loss_job(1, 1, 4))
    stays = lane.score("a", loss_job(2, 1, 4))
    assert gone.cancel()
    release()
    stays.result(10)
    assert engine.steps == [[(2, 4)]]
    assert not stays.cancel()


def test_a_job_that_fails_fails_alone(lane: Lane, engine: SteppedFakeEngine) -> None:
    """A step that fails is done again one request at a time, so only the request at fault fails."""
    release = _held(lane)
    bad, worse = lane.score("a", loss_job(engine.bad, 1, 9)), lane.score("b", loss_job(engine.unpreparable, 2, 1))
    good = [lane.score(account, loss_job(5, 1, 3)) for account in ("a", "b", "c")]
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
    lane = Lane(SteppedFakeEngine(), max_queue=2, clock=lambda: next(ticks))
    lane.score("a", loss_job(1, 1, 4)).result(10)
    release = _held(lane)
    lane.submit("a", 40, lambda: None)
    lane.submit("a", 40, lambda: None)
    with pytest.raises(QueueFullError) as full:
        lane.submit("a", 1, lambda: None)
    assert full.value.retry_after == pytest.approx(100)
    release()
    lane.close(10)


def test_closing_finishes_what_is_queued_and_takes_no_more(engine: SteppedFakeEngine) -> None:
    """A closed lane refuses new work and still does all it had taken."""
    lane = Lane(engine)
    release = _held(lane)
    futures = [lane.score("a", loss_job(1, 3, 5)), lane.score("b", loss_job(2, 1, 1))]
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


def test_closing_in_a_hurry_cancels_what_has_not_begun(engine: SteppedFakeEngine) -> None:
    """After the time given, work that waits is cancelled, so nobody waits for ever."""
    lane = Lane(engine)
    release = _held(lane)
    waiting = lane.score("a", loss_job(1, 1, 1))
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
