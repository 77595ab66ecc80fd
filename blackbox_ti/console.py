"""What a person sees while it runs, on stderr: one line that renews itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from blackbox_ti.initialise import Start
from blackbox_ti.plan import Plan
from blackbox_ti.progress import Progress

__all__ = ["Console"]

_PLAIN_EVERY = 5.0


class Console:
    """Writes progress to `stream` unless `quiet`."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._terminal = self._stream.isatty()
        self._open_line = False
        self._last_plain = float("-inf")
        self._host_changed = 0
        self._race_seconds = 0.0

    def say(self, text: str) -> None:
        """Write a line."""
        if self._quiet:
            return
        if self._open_line:
            self._stream.write("\n")
            self._open_line = False
        self._stream.write(text + "\n")
        self._stream.flush()

    def plan(self, plan: Plan, start: Start) -> None:
        """Say where the search starts and how it is arranged."""
        self.say(f"start: {start.description}")
        self.say(f"plan:  {plan.describe()}")

    def progress(self, now: Progress) -> None:
        """Show where the run stands."""
        if self._quiet:
            return
        if now.host_changed > self._host_changed:
            self._host_changed = now.host_changed
            self.say("WARNING: the host now answers the same question otherwise; its model may have been swapped")
        if now.phase == "race":
            self._race_seconds = now.seconds
        line = _progress_line(now, now.seconds - self._race_seconds)
        if self._terminal:
            self._stream.write("\r\x1b[2K" + line)
            self._stream.flush()
            self._open_line = True
        elif time.monotonic() - self._last_plain >= _PLAIN_EVERY or now.generation == now.generations:
            self._last_plain = time.monotonic()
            self.say(line)


def _progress_line(now: Progress, searched: float) -> str:
    """One line of where a run stands; `searched` is how long the search itself has taken, in seconds."""
    if now.phase == "race":
        return f"choosing a start, round {now.generation}/{now.generations}  {now.forwards:,} forwards"
    rate = now.forwards / now.seconds if now.seconds else 0.0
    left = searched / now.generation * (now.generations - now.generation) if now.generation else 0.0
    loss = "" if now.loss is None else f"  loss {now.loss:.4f}"
    score = "" if now.score is None else f"  score {now.score:.4f}"
    judged = now.heldout_loss if now.heldout_score is None else now.heldout_score
    heldout = "" if judged is None else f"  held out {judged:.4f}"
    return (
        f"generation {now.generation}/{now.generations}  {now.forwards:,}/{now.max_forwards:,} forwards"
        f"{loss}{score}{heldout}  {rate:.0f}/s  {left:.0f} s left"
    )
