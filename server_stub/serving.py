"""The server as a process: what it refuses to start as, its one line on stdout, and how it stops.

SIGTERM or SIGINT   new work is refused with 503, work under way ends, exit code 0
the same again      the process ends at once
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import TextIO

import uvicorn

from blackbox_ti.errors import InputError
from server_stub.accounts import Accounts
from server_stub.allocator import keep_memory
from server_stub.app import app_of
from server_stub.connections import connection_class
from server_stub.database import BooksUnavailableError
from server_stub.engine import Engine
from server_stub.host import Host, books_at
from server_stub.logs import configure, logger
from server_stub.settings import Settings, is_loopback
from server_stub.tls import server_context

__all__ = ["check_exposure", "listen", "run"]


def run(settings: Settings, load: Callable[[], Engine], *, out: TextIO = sys.stdout) -> int:
    """Serve the engine that `load` makes until a signal; print the URL on `out` when ready; return the exit code.

    Raises:
        InputError: the server may not start like this; the message says what to change.
    """
    configure(settings.log_level)
    keep_memory()
    check_exposure(settings, guarded=_is_guarded(settings))
    context = server_context(settings)
    with listen(settings) as listener:
        host = _host(settings, load)
        server = _Server(_config(settings, host), host, out)
        server.config.load()
        server.config.ssl = context
        server.run(sockets=[listener])
        return server.exit_code


def check_exposure(settings: Settings, *, guarded: bool) -> None:
    """Refuse to be reachable by strangers without keys, or with keys in the clear.

    Raises:
        InputError: the address is not loopback, or a proxy leads to it, and keys or TLS are missing.
    """
    exposed = settings.behind_tls_proxy or not is_loopback(settings.host)
    if exposed and not guarded:
        raise InputError("others can reach this address: make a key first, with `blackbox-ti keys create`")
    if exposed and settings.tls_cert is None and not settings.behind_tls_proxy:
        message = (
            "keys would travel in the clear: give --tls-cert and --tls-key, or --behind-tls-proxy where one ends TLS"
        )
        raise InputError(message)


def _is_guarded(settings: Settings) -> bool:
    """Return whether the books that the server will use hold a credential."""
    folder = settings.state_dir
    if settings.database_url is None and (folder is None or not folder.exists()):
        return False
    with _unusable_state():
        books = books_at(settings, folder or Path())
        try:
            return Accounts(books).guarded()
        finally:
            books.close()


def _host(settings: Settings, load: Callable[[], Engine]) -> Host:
    engine = _apart(load)
    with _unusable_state():
        return Host(engine, settings)


def _apart(load: Callable[[], Engine]) -> Engine:
    """Return what `load` makes in a thread that ends with it.

    OpenMP keeps a pool of threads for each thread that ever used it, and with more pools than processors theirs wait
    by sleeping: a pass on the lane took a tenth longer where the main thread had loaded the model.
    """
    loaded: Future[Engine] = Future()

    def work() -> None:
        try:
            loaded.set_result(load())
        except BaseException as error:
            loaded.set_exception(error)

    Thread(target=work, name="load", daemon=True).start()
    return loaded.result()


@contextmanager
def _unusable_state() -> Iterator[None]:
    """Turn what keeps the books from opening into advice."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise InputError(f"the state folder cannot be used: {error}") from error
    except BooksUnavailableError as error:
        raise InputError("the books' database cannot be used: check --database and that it is up") from error


def listen(settings: Settings) -> socket.socket:
    """Return a socket that listens where `settings` say, its connections without Nagle's delay.

    Raises:
        InputError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        message = f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; choose another --port"
        raise InputError(message) from error
    # asyncio turns Nagle's algorithm off only where the socket names its protocol; with it a reply waits 40 ms for the
    # acknowledgement of its own headers.
    return socket.socket(family, listener.type, socket.IPPROTO_TCP, fileno=listener.detach())


def _config(settings: Settings, host: Host) -> uvicorn.Config:
    return uvicorn.Config(
        app_of(host),
        http=connection_class(header_timeout=settings.header_timeout),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=4 * settings.max_header_bytes + 65_536,
        timeout_graceful_shutdown=5,
    )


class _Server(uvicorn.Server):
    """uvicorn's server that says when it is ready and drains before it stops."""

    def __init__(self, config: uvicorn.Config, host: Host, out: TextIO) -> None:
        super().__init__(config)
        self._host = host
        self._out = out
        self._asked_at: float | None = None
        self._announcement: asyncio.Task[None] | None = None
        self.exit_code = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and announce the address once the model is warm."""
        await super().startup(sockets)
        assert sockets
        self._announcement = asyncio.create_task(self._announce(sockets[0]))

    async def _announce(self, listener: socket.socket) -> None:
        try:
            await asyncio.wrap_future(self._host.warm)
        except Exception:
            self.exit_code = 1
            self.should_exit = True
            return
        if not self._host.draining:
            self._out.write(_url(self._host.settings, listener) + "\n")
            self._out.flush()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ask for a drain at the first signal, which must not wait for any lock here; stop at the second."""
        if self._asked_at is not None:
            super().handle_exit(sig, frame)
            self.force_exit = True
        self._asked_at = time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop: at once when told so, or when a drain has nothing left to wait for."""
        if await super().on_tick(counter):
            return True
        if self._asked_at is None:
            return False
        if not self._host.draining:
            logger.info("draining")
            self._host.drain()
        late = time.monotonic() - self._asked_at > self._host.settings.drain_timeout
        return late or self._host.active == 0


def _url(settings: Settings, listener: socket.socket) -> str:
    scheme = "https" if settings.tls_cert is not None else "http"
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{name}:{listener.getsockname()[1]}"
