"""The exception tree: the drawing at the top of the module is the tree, exit codes included."""

from __future__ import annotations

import re

import pytest

from blackbox_ti import errors
from blackbox_ti.errors import BlackboxTIError, EndpointError
from blackbox_ti.wire import Problem

NAMES = [name for name in errors.__all__ if name != "BlackboxTIError"]


def _drawn() -> dict[str, tuple[str, int]]:
    """Return each error's parent and exit code as the docstring draws them."""
    found: dict[str, tuple[str, int]] = {}
    above = ["BlackboxTIError"]
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([│├└─ ]*)[├└]── (\w+)\s.*?(\d+)?$", line)
        if match:
            depth = len(match[1]) // 4 + 1
            above[depth:] = [match[2]]
            kind = getattr(errors, match[2])
            found[match[2]] = (above[depth - 1], int(match[3]) if match[3] else kind.exit_code)
    return found


def test_every_error_is_drawn_where_it_belongs() -> None:
    """Each name in `__all__` is in the drawing, under its own base class, with its own exit code."""
    drawn = _drawn()
    assert set(drawn) == set(NAMES)
    for name, (parent, code) in drawn.items():
        kind = getattr(errors, name)
        assert kind.__base__.__name__ == parent, name
        assert kind.exit_code == code, name


@pytest.mark.parametrize("name", NAMES)
def test_no_error_ends_in_success_or_as_an_interruption(name: str) -> None:
    """Exit codes are for scripts: neither 0, nor the shell's own, nor Ctrl-C's."""
    kind = getattr(errors, name)
    assert issubclass(kind, BlackboxTIError)
    assert 2 <= kind.exit_code < 126


def test_an_endpoints_error_keeps_the_hosts_own_account() -> None:
    """The problem is at hand for programs; the message is for people."""
    problem = Problem(status=503, code="overloaded")
    error = EndpointError("busy", problem=problem)
    assert (str(error), error.problem, EndpointError("x").problem) == ("busy", problem, None)
