"""What the routes share: the model, its lane, the books, and whether new work is taken."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import URL

from blackbox_ti.wire import PROTOCOL_VERSION, ModelCard, ProblemCode
from server_stub.accounts import Accounts
from server_stub.batching import Lane, LaneClosedError, QueueFullError
from server_stub.concepts import Concept, ConceptStore
from server_stub.database import Books, BooksUnavailableError
from server_stub.engine import Engine, ImageJob, LossJob
from server_stub.idempotency import Operations
from server_stub.limiter import Limiter
from server_stub.logs import logger
from server_stub.metrics import Metrics
from server_stub.presence import Presence
from server_stub.problems import ProblemError
from server_stub.receipts import Signer
from server_stub.references import decode_pictures, register
from server_stub.settings import Settings

__all__ = ["Host", "books_at", "model_card"]

ResultT = TypeVar("ResultT")

_LAST_WORK_SECONDS: Final = 60.0


def books_at(settings: Settings, folder: Path) -> Books:
    """Return the books that `settings` name, by default a SQLite file in `folder` that only its owner may read."""
    if settings.database_url is not None:
        return Books(settings.database_url.get_secret_value())
    path = folder / "books.sqlite"
    path.touch(mode=0o600)
    return Books(URL.create("sqlite", database=str(path)))


def model_card(engine: Engine, settings: Settings, public_key: str | None) -> ModelCard:
    """Return the model card: the engine's share, and what the host decided; without a key no receipts are signed."""
    info = engine.info
    typical = max(encoder.norm_mean + 3 * encoder.norm_std for encoder in info.encoders)
    changes = {
        "max_norm": settings.max_norm or settings.max_norm_factor * typical,
        "max_prompt_tokens": min(settings.limits.max_prompt_tokens, info.max_prompt_tokens),
    }
    return ModelCard(
        protocol_version=PROTOCOL_VERSION,
        model=info.model,
        family=info.family,
        fingerprint=info.fingerprint,
        encoders=list(info.encoders),
        resolution=info.resolution,
        prediction_type=info.prediction_type,
        objectives=list(settings.objectives),
        reply_mode=settings.reply_mode,
        reply_digits=settings.reply_digits if settings.reply_mode == "rounded" else None,
        vocabulary=settings.vocabulary,
        limits=settings.limits.model_copy(update=changes),
        prices=settings.prices,
        receipt_public_key=public_key,
    )


class Host:
    """One server's shared parts, made from an engine and settings; `close` lets go of them.

    Raises:
        ValueError: the state folder or its key cannot be used.
        BooksUnavailableError: the database cannot be used.
    """

    def __init__(self, engine: Engine, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        if settings.database_url is not None and settings.state_dir is None:
            raise ValueError("a database needs a state folder beside it, for the key that signs receipts")
        self._temporary = tempfile.TemporaryDirectory() if settings.state_dir is None else None
        self.folder = Path(self._temporary.name if self._temporary else settings.state_dir or ".")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.engine = engine
        self.settings = settings
        self.clock = clock
        self.signer = Signer.at(self.folder / "receipts.key")
        self.card = model_card(engine, settings, self.signer.public_key)
        self.books = books_at(settings, self.folder)
        self.presence = Presence(self.books, self.folder / "servers", lease=settings.lease, clock=clock)
        self.accounts = Accounts(self.books, clock=clock)
        self.local = self.accounts.local()
        self.operations = Operations(self.books, self.signer, self.presence, clock=clock)
        self.limiter = Limiter(
            rate=settings.requests_per_second,
            burst=settings.requests_burst,
            concurrency=settings.limits.max_concurrency,
        )
        self.strangers = Limiter(rate=1.0, burst=20)
        self.metrics = Metrics()
        self.lane = Lane(engine, max_queue=settings.max_queue)
        self.concepts = ConceptStore(
            self.card.fingerprint, folder=self.folder / "concepts", secret=self.signer.derived(b"concepts")
        )
        self.draining = False
        self.active = 0
        self.warm: Future[None] = self.lane.submit("", 1, engine.warm_up)
        self.warm.add_done_callback(self._warmed)
        self._stopped = threading.Event()
        self._tidier = threading.Thread(target=self._tidy_for_ever, name="tidy", daemon=True)
        self.tidy()
        self._tidier.start()

    def _warmed(self, done: Future[None]) -> None:
        failed = done.cancelled() or done.exception() is not None
        self.metrics.ready.set(0 if failed else 1)
        if failed:
            logger.error("the model did not warm up", exc_info=None if done.cancelled() else done.exception())

    @property
    def ready(self) -> bool:
        """Whether new work is taken: the model is warm, and the server is not draining."""
        warm = self.warm.done() and not self.warm.cancelled() and self.warm.exception() is None
        return warm and not self.draining

    def check_ready(self) -> None:
        """Refuse new work while the model is not warm, or the server drains.

        Raises:
            ProblemError: not ready.
        """
        if not self.ready:
            detail = "the host is about to stop" if self.draining else "the model is warming up"
            raise ProblemError(ProblemCode.NOT_READY, detail, retry_after=self.settings.retry_after)

    def score(self, account: str, job: LossJob) -> Future[NDArray[np.float32]]:
        """Queue candidates for the device; the losses are (B, n). Raises as `queued` does."""
        return self.queued(lambda: self.lane.score(account, job))

    def paint(self, account: str, job: ImageJob) -> Future[list[Image.Image]]:
        """Queue pictures for the device. Raises as `queued` does."""
        return self.queued(lambda: self.lane.paint(account, job))

    def queued(self, submit: Callable[[], Future[ResultT]]) -> Future[ResultT]:
        """Return what `submit` queued on the lane.

        Raises:
            ProblemError: the queue is full, or closed.
        """
        try:
            return submit()
        except QueueFullError as error:
            detail = "too much work is waiting for the model"
            raise ProblemError(ProblemCode.OVERLOADED, detail, retry_after=error.retry_after) from error
        except LaneClosedError as error:
            after = self.settings.retry_after
            raise ProblemError(ProblemCode.NOT_READY, "the host is about to stop", retry_after=after) from error

    def register(self, account: str, files: Sequence[str]) -> Concept:
        """Return the account's concept of `files` (pictures in base64), encoded once.

        Raises:
            ProblemError: a picture cannot be used.
        """
        pictures = decode_pictures(files, resolution=self.card.resolution, limits=self.card.limits)
        return register(self.concepts, account, pictures, lambda new: self._encode(account, new))

    def _encode(self, account: str, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        encode = partial(self.engine.encode_images, pictures)
        latents: NDArray[np.float32] = self.queued(lambda: self.lane.submit(account, len(pictures), encode)).result()
        return latents

    def concept(self, account: str, concept: str) -> Concept:
        """Return one of the account's concepts.

        Raises:
            ProblemError: the account has none of that id.
        """
        found = self.concepts.get(account, concept)
        if found is None:
            raise ProblemError(ProblemCode.CONCEPT_NOT_FOUND, "the account has no such concept; register it again")
        return found

    def entered(self) -> None:
        """Count a request that begins (on the event loop's thread alone)."""
        self.active += 1
        self.metrics.active.set(self.active)

    def left(self) -> None:
        """Count a request that ends."""
        self.active -= 1
        self.metrics.active.set(self.active)

    def drain(self) -> None:
        """Take no more new work."""
        self.draining = True
        self.metrics.ready.set(0)

    def tidy(self) -> None:
        """Release what dead servers held, and drop old replies; a database that is away is tried again later."""
        with suppress(BooksUnavailableError):
            released = self.operations.tidy(retention=self.settings.reply_retention)
            if released:
                logger.warning("released reservations of a server that is gone", extra={"count": released})

    def _tidy_for_ever(self) -> None:
        while not self._stopped.wait(self.settings.lease / 4):
            try:
                self.tidy()
            except Exception:
                logger.exception("tidying failed")

    def close(self) -> None:
        """Stop the lane after the work it has begun, and let go of the books; closing twice is no error."""
        if self._stopped.is_set():
            return
        self.drain()
        self._stopped.set()
        self._tidier.join()
        self.lane.close(_LAST_WORK_SECONDS)
        self.presence.close()
        self.books.close()
        if self._temporary is not None:
            self._temporary.cleanup()
