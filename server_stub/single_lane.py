"""One request after the other on one thread, and concepts in memory: what the host uses where no lane is given."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from PIL import Image

from blackbox_ti.wire import Limits, ProblemCode
from server_stub.engine import Engine
from server_stub.problems import ProblemError

__all__ = ["SingleLane"]

ResultT = TypeVar("ResultT")


class SingleLane:
    """Work for an engine, in order."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits
        self._pool = ThreadPoolExecutor(1)
        self._concepts: dict[tuple[str, str], tuple[Any, int]] = {}

    def submit(self, work: Callable[[], ResultT]) -> Future[ResultT]:
        """Queue `work`."""
        return self._pool.submit(work)

    def register(self, account: str, images: Sequence[str]) -> str:
        """Encode pictures."""
        if len(images) > self._limits.max_concept_images:
            raise ProblemError(ProblemCode.LIMIT_EXCEEDED, "too many pictures")
        try:
            raw = [base64.b64decode(image, validate=True) for image in images]
            pictures = [Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")).convert("RGB") for data in raw]
        except (OSError, ValueError, binascii.Error) as error:
            raise ProblemError(ProblemCode.INVALID_IMAGE, "a picture cannot be read") from error
        text = "|".join([account, self._engine.info.fingerprint, *(hashlib.sha256(data).hexdigest() for data in raw)])
        concept = hashlib.sha256(text.encode()).hexdigest()
        latents = self.submit(lambda: self._engine.encode_images(pictures)).result()
        self._concepts[account, concept] = (latents, len(pictures))
        return concept

    def concept(self, account: str, concept: str) -> tuple[Any, int] | None:
        """Return latents and number of pictures."""
        return self._concepts.get((account, concept))

    def forget(self, account: str, concept: str) -> bool:
        """Remove a concept."""
        return self._concepts.pop((account, concept), None) is not None

    def close(self) -> None:
        """Finish what is queued."""
        self._pool.shutdown()
