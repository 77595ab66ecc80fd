"""Tests of what a server refuses to start as; the processes are in `tests/e2e/test_server_process.py`."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from blackbox_ti.errors import InputError
from server_stub.serving import check_exposure, listen, run
from server_stub.settings import Settings
from tests.server_stub.fake_engine import FakeEngine

TLS: dict[str, Any] = {"tls_cert": "c.pem", "tls_key": "k.pem"}


@pytest.mark.parametrize(
    ("settings", "guarded", "advice"),
    [
        ({}, False, None),
        ({"host": "::1"}, False, None),
        ({"host": "0.0.0.0"}, False, "keys create"),
        ({"host": "0.0.0.0", **TLS}, False, "keys create"),
        ({"host": "0.0.0.0"}, True, "in the clear"),
        ({"host": "0.0.0.0", **TLS}, True, None),
        ({"host": "0.0.0.0", "behind_tls_proxy": True}, True, None),
        ({"behind_tls_proxy": True}, False, "keys create"),
        ({"behind_tls_proxy": True}, True, None),
    ],
)
def test_strangers_need_keys_and_keys_need_tls(settings: dict[str, Any], guarded: bool, advice: str | None) -> None:
    """Off loopback, or behind a proxy, keys must exist, and TLS must end here or at the proxy."""
    if advice is None:
        check_exposure(Settings(**settings), guarded=guarded)
        return
    with pytest.raises(InputError, match=advice):
        check_exposure(Settings(**settings), guarded=guarded)


def test_an_exposed_server_is_refused_before_its_model_loads(tmp_path: Path) -> None:
    """Nothing is loaded, bound or printed for a server that may not start."""

    def load() -> FakeEngine:
        pytest.fail("the model was loaded")

    out = io.StringIO()
    with pytest.raises(InputError, match="keys create"):
        run(Settings(host="0.0.0.0", port=0, state_dir=tmp_path / "state"), load, out=out)
    assert out.getvalue() == ""
    assert not (tmp_path / "state").exists()


def test_an_unusable_state_folder_is_said_plainly(tmp_path: Path) -> None:
    """A file in the folder's place, and a database without a folder for its key, end in advice."""
    (tmp_path / "file").write_text("")
    for settings in ({"state_dir": tmp_path / "file"}, {"database_url": f"sqlite:///{tmp_path / 'b'}"}):
        with pytest.raises(InputError, match="state folder"):
            run(Settings.model_validate({"port": 0, **settings}), FakeEngine, out=io.StringIO())


def test_the_model_is_loaded_in_a_thread_that_ends(tmp_path: Path) -> None:
    """The thread that serves has no pool of workers from loading, and what fails there fails the start."""
    seen: list[threading.Thread] = []

    def load() -> FakeEngine:
        seen.append(threading.current_thread())
        raise InputError("no such model")

    with pytest.raises(InputError, match="no such model"):
        run(Settings(port=0, state_dir=tmp_path), load, out=io.StringIO())
    seen[0].join(timeout=10)
    assert seen[0] is not threading.current_thread()
    assert not seen[0].is_alive()


def test_replies_do_not_wait_for_acknowledgements() -> None:
    """A connection taken in by asyncio on the server's socket has Nagle's algorithm turned off."""

    async def delay_of_an_accepted_connection() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = listen(Settings(port=0))
        async with await asyncio.start_server(connected, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            found = await accepted
            writer.close()
            return found

    assert asyncio.run(delay_of_an_accepted_connection()) != 0
