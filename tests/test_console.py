"""What a person sees."""

from __future__ import annotations

import io

import pytest

from blackbox_ti.console import Console
from blackbox_ti.progress import Progress

NOW = Progress("search", 3, 10, 600, 2000, 0.25, 0.26, 2.0)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("part", ["3/10", "600/2,000 forwards", "0.2500", "held out 0.2600", "300/s", "5 s left"])
def test_progress_tells_forwards_best_rate_and_time_left(part: str) -> None:
    """One line holds what a waiting person asks."""
    stream = _Terminal()
    Console(stream=stream).progress(NOW)
    assert part in stream.getvalue()


def test_a_terminal_line_renews_itself_and_others_begin_below() -> None:
    """Progress overwrites progress; a message starts a line of its own."""
    stream = _Terminal()
    console = Console(stream=stream)
    console.progress(NOW)
    console.progress(NOW)
    console.say("done")
    assert stream.getvalue().count("\r") == 2
    assert stream.getvalue().endswith("\ndone\n")


def test_a_log_file_gets_plain_lines_not_too_many() -> None:
    """Off a terminal there are no control characters, and the last generation is always told."""
    stream = io.StringIO()
    console = Console(stream=stream)
    for generation in range(1, 11):
        console.progress(Progress("search", generation, 10, 600, 2000, None, None, 2.0))
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("generation 1/10")
    assert lines[-1].startswith("generation 10/10")
    assert len(lines) < 10
    assert "\r" not in stream.getvalue()
    assert "loss" not in stream.getvalue()


def test_choosing_a_start_is_told_too() -> None:
    """Its rounds take a while, and there is no loss to show of them."""
    stream = _Terminal()
    Console(stream=stream).progress(Progress("race", 2, 8, 448, 5000, None, None, 9.0))
    assert stream.getvalue().endswith("choosing a start, round 2/8  448 forwards")


def test_the_time_left_is_that_of_the_search() -> None:
    """What choosing the start took is not counted on again."""
    stream = _Terminal()
    console = Console(stream=stream)
    console.progress(Progress("race", 8, 8, 832, 5000, None, None, 60.0))
    console.progress(Progress("search", 5, 10, 2800, 5000, 0.25, 0.26, 70.0))
    assert stream.getvalue().endswith("  10 s left")


def test_quiet_says_nothing() -> None:
    """Not a byte."""
    stream = io.StringIO()
    console = Console(quiet=True, stream=stream)
    console.say("x")
    console.progress(NOW)
    assert stream.getvalue() == ""
