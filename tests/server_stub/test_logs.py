"""Tests of the log's form: known fields alone, and no message of an exception."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from server_stub.logs import FIELDS, configure, logger


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Yield a stream that the server's logs go to."""
    made = io.StringIO()
    before = logging.getLogger().handlers, logging.getLogger().level
    configure("info", made)
    yield made
    logging.getLogger().handlers, logging.getLogger().level = before


def test_a_line_is_json_with_the_fields_that_are_known(stream: io.StringIO) -> None:
    """Fields outside the list, which a careless caller might add, do not get into the line."""
    logger.info("request", extra={"request_id": "r", "status": 200, "authorization": "secret"})
    line = json.loads(stream.getvalue())
    assert (line["message"], line["request_id"], line["status"], line["level"]) == ("request", "r", 200, "info")
    assert "secret" not in stream.getvalue()
    assert set(line) <= FIELDS | {"time", "level", "logger", "message"}


def test_an_exception_is_logged_as_types_and_places(stream: io.StringIO) -> None:
    """The chain of types and code positions is kept; messages, which may quote a request, are not."""
    try:
        try:
            int("secret")
        except ValueError as error:
            raise KeyError("secret") from error
    except KeyError:
        logger.exception("a request failed")
    line = json.loads(stream.getvalue())
    assert "secret" not in stream.getvalue()
    assert [part for part in line["exception"] if part.endswith("Error")] == ["KeyError", "ValueError"]
    assert any("test_logs.py" in part for part in line["exception"])


def test_line_breaks_cannot_forge_a_line(stream: io.StringIO) -> None:
    """A value with a line break stays within its line."""
    logger.info("request", extra={"reason": 'x\n{"message": "forged"}'})
    assert len(stream.getvalue().splitlines()) == 1


def test_what_other_libraries_say_is_withheld(stream: io.StringIO) -> None:
    """A warning of a library is known by its name and level; its text, which may quote a prompt, is not kept."""
    logging.getLogger("library.of.others").warning("the prompt 'secret' is too long")
    line = json.loads(stream.getvalue())
    assert (line["logger"], line["level"]) == ("library.of.others", "warning")
    assert "secret" not in stream.getvalue()


def test_what_is_below_the_level_is_left_out(stream: io.StringIO) -> None:
    """Debug lines do not appear at level info; uvicorn's own go to the same place."""
    logger.debug("quiet")
    logging.getLogger("uvicorn.error").info("from uvicorn")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["from uvicorn"]
