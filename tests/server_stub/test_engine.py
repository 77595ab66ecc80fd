"""The engine's two forms: whole answers, and work in steps that the lane can share out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from server_stub.engine import ImageJob, LossJob, Slice, SteppedEngine
from tests.server_stub.fake_engine import FakeEngine


class Stepped(FakeEngine):
    """A fake engine whose work comes in steps."""

    micro_batch = 4

    def prepare(self, job: LossJob) -> Any:
        """Return the job."""
        return job

    def score(self, slices: Sequence[Slice]) -> None:
        """Score nothing."""

    def result(self, work: Any) -> NDArray[np.float32]:
        """Return all losses at once."""
        return self.losses(work)

    def pictures(self, job: ImageJob) -> Iterator[Image.Image]:
        """Yield all pictures."""
        yield from self.images(job)


def test_only_an_engine_with_steps_is_taken_for_one() -> None:
    """The lane tells the two apart by what they can do; one missing method is enough to be the plain kind."""
    assert isinstance(Stepped(), SteppedEngine)
    assert not isinstance(FakeEngine(), SteppedEngine)

    class Lacking(Stepped):
        pictures = None  # type: ignore[assignment]

    assert not isinstance(Lacking(), SteppedEngine)
