"""Keys: where they come from, and that they are never shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.errors import InputError
from blackbox_ti.secrets import API_KEY_VARIABLE, api_key_from, load_api_key

KEY = "bti_planted-0123456789"


def test_the_environment_gives_the_key() -> None:
    """Without a file or a command the key comes from the environment variable."""
    key = load_api_key(environ={API_KEY_VARIABLE: KEY})
    assert key is not None
    assert key.get_secret_value() == KEY


def test_no_source_gives_no_key() -> None:
    """A host on loopback needs no key, so none is no error."""
    assert load_api_key(environ={}) is None


def test_a_file_goes_before_the_environment(tmp_path: Path) -> None:
    """A file named on purpose beats the environment, its line end left out."""
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    key = load_api_key(environ={API_KEY_VARIABLE: "other"}, file=file)
    assert key is not None
    assert key.get_secret_value() == KEY


def test_a_command_prints_the_key() -> None:
    """What a command prints on stdout is the key."""
    key = load_api_key(environ={}, command=f"{sys.executable} -c \"print('{KEY}')\"")
    assert key is not None
    assert key.get_secret_value() == KEY


@pytest.mark.parametrize(
    "command", ["", "'unbalanced", "/no/such/program", f"{sys.executable} -c 'import sys; sys.exit(3)'"]
)
def test_a_command_that_fails_is_an_input_error(command: str) -> None:
    """A command that cannot run or fails is told as such."""
    with pytest.raises(InputError, match="command failed"):
        load_api_key(environ={}, command=command)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    """A file that is not there is told as such."""
    with pytest.raises(InputError, match="cannot be read"):
        load_api_key(environ={}, file=tmp_path / "none")


def test_two_sources_are_an_input_error(tmp_path: Path) -> None:
    """A file and a command together are a mistake, not a choice."""
    with pytest.raises(InputError, match="not both"):
        load_api_key(environ={}, file=tmp_path / "key", command="true")


def test_a_key_prints_nowhere() -> None:
    """Neither str, repr nor format of a key shows it."""
    key = api_key_from(KEY, "test")
    assert KEY not in f"{key} {key!r} {key!s} {[key]}"


@given(st.text(max_size=64))
def test_any_text_is_a_header_safe_key_or_an_input_error(text: str) -> None:
    """Text is accepted only if it can stand in a header as it is."""
    try:
        key = api_key_from(text, "test").get_secret_value()
    except InputError:
        assert not text.strip() or not all("!" <= c <= "~" for c in text.strip())
    else:
        assert key == text.strip()
        assert all("!" <= c <= "~" for c in key)


def test_a_refused_key_is_not_repeated() -> None:
    """The error for a key that cannot be used does not hold it."""
    with pytest.raises(InputError) as caught:
        api_key_from("planted key with spaces", "test")
    assert "planted" not in str(caught.value)
