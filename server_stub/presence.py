"""Which server processes on the books are alive.

A process holds a lock on a file of its own in the state folder, which its death lets go at once; processes of other
machines on the same database are known by a time they renew, and are dead when it is older than the lease.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import sqlalchemy as sa

from server_stub.database import Books, servers

try:
    import fcntl
except ImportError:  # Windows has no flock: there the lease alone tells
    fcntl = None  # type: ignore[assignment]

__all__ = ["Presence"]


class Presence:
    """This process among the servers of `books`; `lease` is in seconds, `clock` gives seconds since 1970."""

    def __init__(
        self, books: Books, folder: Path, *, lease: float = 30.0, clock: Callable[[], float] = time.time
    ) -> None:
        self.id = secrets.token_hex(16)
        self._books = books
        self._folder = folder
        self._lease = lease
        self._clock = clock
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(self._path(self.id), os.O_RDWR | os.O_CREAT, 0o600)
        if fcntl is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._renew()

    def _path(self, server: str) -> Path:
        assert re.fullmatch("[0-9a-f]{32}", server)
        return self._folder / f"{server}.lock"

    def _renew(self) -> None:
        with self._books.write() as connection:
            mine = sa.update(servers).where(servers.c.id == self.id)
            if connection.execute(mine.values(seen_at=self._clock())).rowcount == 0:
                connection.execute(sa.insert(servers).values(id=self.id, seen_at=self._clock()))

    def beat(self) -> list[str]:
        """Renew this process's time and return the ids of the processes that are dead."""
        self._renew()
        with self._books.read() as connection:
            others = connection.execute(sa.select(servers).where(servers.c.id != self.id)).all()
        return [row.id for row in others if self._is_dead(row.id, row.seen_at)]

    def _is_dead(self, server: str, seen_at: float) -> bool:
        path = self._path(server)
        if fcntl is None or not path.exists():
            return bool(seen_at < self._clock() - self._lease)
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            return True
        finally:
            os.close(descriptor)

    def bury(self, dead: Iterable[str]) -> None:
        """Forget processes whose reservations are released."""
        for server in dead:
            with self._books.write() as connection:
                connection.execute(sa.delete(servers).where(servers.c.id == server))
            self._path(server).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the lock; the next process to look finds this one dead and releases what it may have held."""
        os.close(self._file)
