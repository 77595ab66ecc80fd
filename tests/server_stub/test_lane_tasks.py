"""Work in units: when a result is there, and what it is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_stub.engine import Slice
from server_stub.lane_tasks import Call, Losses, Pictures, Share
from tests.server_stub.stepped_engine import SteppedFakeEngine, image_job, loss_job


@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_a_jobs_losses_are_there_after_its_last_row(candidates: int, samples: int, data: st.DataObject) -> None:
    """However its rows are divided into steps, the result is the engine's own, and not a row earlier."""
    engine, job = SteppedFakeEngine(), loss_job(3, candidates, samples)
    rows = candidates * samples
    task = Losses("a", rows, rows, job=job)
    cuts = sorted({0, rows, *data.draw(st.lists(st.integers(0, rows)))})
    for start, stop in pairwise(cuts):
        assert not task.future.done()
        task.prepare(engine)
        engine.score([Slice(task.work, start, stop)])
        task.file(engine, len(Share(task, start, stop)))
    np.testing.assert_array_equal(task.future.result(0), SteppedFakeEngine().losses(job))


def test_a_job_is_prepared_once() -> None:
    """What is scored stays scored when the next rows are asked for."""
    engine, task = SteppedFakeEngine(), Losses("a", 4, 4, job=loss_job(1, 2, 2))
    task.prepare(engine)
    work = task.work
    task.prepare(engine)
    assert task.work is work


def test_pictures_are_made_one_a_step() -> None:
    """The result is all of them, in order, after the last."""
    engine, job = SteppedFakeEngine(), image_job([7, 8, 9])
    task = Pictures("a", 3, 60, pictures=engine.pictures(job))
    for made in range(3):
        assert (len(engine.steps), task.future.done()) == (made, False)
        task.step()
    assert [picture.getpixel((0, 0)) for picture in task.future.result(0)] == [7, 8, 9]


def test_a_call_is_done_in_one_step() -> None:
    """Its result is what the function returns; what it raises is the caller's to handle."""
    task = Call("a", 1, 5, function=lambda: 7)
    task.step()
    assert task.future.result(0) == 7
    with pytest.raises(ZeroDivisionError):
        Call("a", 1, 5, function=lambda: 1 // 0).step()


@given(st.integers(1, 100), st.integers(0, 10_000))
def test_units_share_a_tasks_forwards_evenly(units: int, forwards: int) -> None:
    """What an account is charged in turns adds up to what its work takes."""
    assert Call("a", units, forwards, function=int).forwards_a_unit * units == pytest.approx(forwards)
