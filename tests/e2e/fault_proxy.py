"""A proxy that spoils requests and replies on the way, over real sockets, as a seed has it.

It sits between a client and a server of HTTP/1.1 and draws which requests to spoil, in the order they arrive; the
kinds of fault take turns, shuffled anew each round:

    latency, slow              the reply comes late, or a few bytes at a time
    reset_before, reset_after  the connection is reset before the server acted, or after
    truncated, duplicated      the reply breaks off, or comes twice
    resent                     the request reaches the server twice
    crossed                    the reply is the one to an earlier request
    garbage, garbage_body      the reply is no HTTP, or its body no JSON
    429, 429_after, ...        refused by the proxy itself, without and with Retry-After
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

__all__ = ["FAULTS", "FaultProxy"]

FAULTS = (
    "latency",
    "slow",
    "reset_before",
    "reset_after",
    "truncated",
    "duplicated",
    "resent",
    "crossed",
    "garbage",
    "garbage_body",
    "429",
    "429_after",
    "503",
    "503_after",
)


class FaultProxy:
    """A proxy in front of `target`, running while it is entered; `counts` says what it did to how many requests."""

    def __init__(self, target: str, *, rate: float, seed: int) -> None:
        parsed = urlsplit(target)
        assert parsed.hostname is not None
        assert parsed.port is not None
        self._target = (parsed.hostname, parsed.port)
        self._rate = rate
        self._random = random.Random(seed)
        self._round: list[str] = []
        self._last = b""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.counts: Counter[str] = Counter()
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _message(reader)) is not None:
                await self._exchange(request, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _exchange(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        fault = self._next_fault() if self._random.random() < self._rate else "none"
        self.counts[fault] += 1
        if fault == "reset_before":
            writer.transport.abort()
            raise ConnectionResetError
        if fault[:3] in {"429", "503"}:
            writer.write(_refusal(int(fault[:3]), after=fault.endswith("after")))
            return await writer.drain()
        reply = await self._forward(request)
        if fault == "resent":
            reply = await self._forward(request)
        stale, self._last = self._last, reply
        await self._deliver(fault, reply, stale or reply, writer)
        return None

    def _next_fault(self) -> str:
        if not self._round:
            self._round = self._random.sample(FAULTS, len(FAULTS))
        return self._round.pop()

    async def _forward(self, request: bytes) -> bytes:
        """Return the server's whole reply to a request."""
        reader, writer = await asyncio.open_connection(*self._target)
        try:
            writer.write(request)
            await writer.drain()
            reply = await _message(reader)
            if reply is None:
                raise ConnectionResetError
            return reply
        finally:
            writer.close()

    async def _deliver(self, fault: str, reply: bytes, stale: bytes, writer: asyncio.StreamWriter) -> None:
        """Send the reply, spoiled."""
        head, _, body = reply.partition(b"\r\n\r\n")
        spoil: dict[str, Callable[[], bytes]] = {
            "truncated": lambda: reply[: self._random.randrange(len(reply))],
            "duplicated": lambda: reply + reply,
            "crossed": lambda: stale,
            "garbage": lambda: self._random.randbytes(200) + b"\r\n\r\n",
            "garbage_body": lambda: head + b"\r\n\r\n" + self._random.randbytes(len(body)),
        }
        if fault == "reset_after":
            writer.transport.abort()
            raise ConnectionResetError
        await asyncio.sleep(0.02 if fault == "latency" else 0)
        sent = spoil[fault]() if fault in spoil else reply
        step = 97 if fault == "slow" else len(sent) or 1
        for start in range(0, len(sent), step):
            writer.write(sent[start : start + step])
            await writer.drain()
            await asyncio.sleep(0.001 if fault == "slow" else 0)
        if fault in {"truncated", "garbage"}:
            raise ConnectionResetError


async def _message(reader: asyncio.StreamReader) -> bytes | None:
    """Return one HTTP/1.1 message with a Content-Length or none, or None at the end of the stream."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


def _refusal(status: int, *, after: bool) -> bytes:
    wait = b"Retry-After: 1\r\n" if after else b""
    return b"HTTP/1.1 %d Busy\r\n%sContent-Length: 0\r\n\r\n" % (status, wait)
