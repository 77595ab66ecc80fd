"""The options for reaching a host."""

from __future__ import annotations

import argparse
import contextlib

import pytest

from blackbox_ti.connection_args import add_connection, connect
from blackbox_ti.errors import InputError


def _parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_connection(parser)
    return parser.parse_args(words)


def test_the_options_make_the_endpoint() -> None:
    """The address given is the endpoint's."""
    with contextlib.closing(connect(_parsed("--endpoint", "http://127.0.0.1:1/"))) as endpoint:
        assert endpoint.url == "http://127.0.0.1:1"


def test_plain_http_off_this_machine_needs_saying() -> None:
    """Refused without the flag, taken with it."""
    with pytest.raises(InputError, match="https"):
        connect(_parsed("--endpoint", "http://host.example"))
    connect(_parsed("--endpoint", "http://host.example", "--allow-http")).close()
