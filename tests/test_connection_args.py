"""The options for reaching a host."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import pytest

from blackbox_ti.connection_args import add_connection, connect
from blackbox_ti.endpoint import guarantees_of
from blackbox_ti.errors import InputError
from blackbox_ti.hf_endpoint import HfEndpoint
from blackbox_ti.oip_endpoint import OipEndpoint


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


MAPPING = """
resolution = 64
[encoders.text]
norm_mean = 0.4
norm_std = 0.1
[loss]
model = "m"
inputs = { embeddings = { text = "e" }, prompts = "p", t = "t", seed = "s" }
outputs = { losses = "l" }
"""


def test_a_host_of_the_inference_protocol_is_named_with_its_mapping(tmp_path: Path) -> None:
    """The endpoint is of that protocol, whose guarantees are none before it was asked."""
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(MAPPING)
    words = ("--endpoint", "http://127.0.0.1:1", "--protocol", "oip", "--mapping", str(mapping))
    with contextlib.closing(connect(_parsed(*words))) as endpoint:
        assert isinstance(endpoint, OipEndpoint)
        assert not guarantees_of(endpoint).idempotency


def test_a_mapping_without_its_protocol_is_a_mistake(tmp_path: Path) -> None:
    """The user is told which option is missing."""
    with pytest.raises(InputError, match="--protocol oip"):
        connect(_parsed("--endpoint", "http://127.0.0.1:1", "--mapping", str(tmp_path / "m.toml")))


def test_protocol_hf_is_the_hosted_handlers() -> None:
    """A token from the same sources, or none where the call is to be a stranger's."""
    with contextlib.closing(connect(_parsed("--endpoint", "http://127.0.0.1:1", "--protocol", "hf"))) as endpoint:
        assert isinstance(endpoint, HfEndpoint)
        assert not guarantees_of(endpoint).idempotency


def test_an_anonymous_connection_reads_no_key(tmp_path: Path) -> None:
    """Not even a file that is not there."""
    words = ("--endpoint", "http://127.0.0.1:1", "--api-key-file", str(tmp_path / "none"))
    connect(_parsed(*words), anonymous=True).close()
    with pytest.raises(InputError):
        connect(_parsed(*words))
