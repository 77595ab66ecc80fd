"""An endpoint in this process that keeps what a search would answer on the way, and replies as an operator may want."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from blackbox_ti.progress import Progress
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import LossReply, LossRequest, ModelCard, decode_tensor, encode_tensor
from server_stub.engine import Engine
from server_stub.in_process import InProcessEndpoint
from server_stub.replies import ranking, rounded

__all__ = ["EXACT", "TRAIL_POINTS", "ReplyMode", "Watched", "thinned"]

TRAIL_POINTS = 6


@dataclass(frozen=True)
class ReplyMode:
    """What the host lets out of the losses; `digits` are significant ones, for `rounded`."""

    mode: Literal["exact", "rounded", "rank"] = "exact"
    digits: int | None = None

    def applied(self, reply: LossReply) -> LossReply:
        """Return the reply to losses as this mode has it."""
        assert reply.losses is not None
        losses = decode_tensor(reply.losses)
        if self.mode == "rank":
            return reply.model_copy(update={"losses": None, "ranking": ranking(losses, reply.candidates)})
        if self.mode == "rounded":
            return reply.model_copy(update={"losses": encode_tensor(rounded(losses, self.digits or 1))})
        return reply


EXACT = ReplyMode()


class Watched(InProcessEndpoint):
    """An endpoint that keeps the answer a search would give after each of its questions.

    That is the best of its own judge, whose verdicts `hear` takes from the search's progress, or where the host only
    ranks from its ranking of the judge's two rivals; of a search without one, the luckiest of the last generation.
    """

    def __init__(self, engine: Engine, reply_mode: ReplyMode = EXACT) -> None:
        super().__init__(engine)
        self.judged: list[tuple[int, Embedding]] = []
        self.luckiest: list[tuple[int, Embedding]] = []
        self._reply_mode = reply_mode
        self._asked: tuple[int, Embedding] | None = None
        self._heldout_loss: float | None = None
        self._generation_best = np.inf
        self._generation = ""

    def describe(self) -> ModelCard:
        """Return the model card."""
        said = {"reply_mode": self._reply_mode.mode, "reply_digits": self._reply_mode.digits}
        return super().describe().model_copy(update=said)

    def losses(self, request: LossRequest, *, label: str, key: str | None = None) -> LossReply:
        """Score every candidate on every sample."""
        reply = super().losses(request, label=label, key=key)
        purpose, _, rest = label.partition("/")
        assert reply.losses is not None
        means = decode_tensor(reply.losses).mean(axis=1)
        best = int(np.argmin(means))
        word = {name: np.array(decode_tensor(tensor)[best]) for name, tensor in request.embeddings.items()}
        now = self.usage().forwards
        if purpose == "heldout" and rest.isdigit():
            self._asked = now, word
            if best > 0:  # of two rivals the second: the new one
                self.judged.append(self._asked)
        elif purpose == "search":
            self._note(rest.partition("/")[0], now, word, float(means[best]))
        return self._reply_mode.applied(reply)

    def hear(self, progress: Progress) -> None:
        """Take in how the search stands: where its held-out loss is another, the word judged last is the best."""
        if self._asked is not None and progress.heldout_loss not in {None, self._heldout_loss}:
            self._heldout_loss = progress.heldout_loss
            self.judged.append(self._asked)

    def _note(self, generation: str, now: int, word: Embedding, loss: float) -> None:
        if generation != self._generation:
            self.luckiest.append((now, word))
            self._generation, self._generation_best = generation, loss
        else:
            self.luckiest[-1] = (now, word if loss < self._generation_best else self.luckiest[-1][1])
            self._generation_best = min(loss, self._generation_best)

    def trail(self) -> list[tuple[int, Embedding]]:
        """Return (forwards, answer), a few of them, evenly over the run."""
        return thinned(self.judged or self.luckiest)


def thinned(points: Sequence[tuple[int, Embedding]]) -> list[tuple[int, Embedding]]:
    """Return a few of the points, the first and the last among them."""
    at = np.unique(np.linspace(0, len(points) - 1, min(len(points), TRAIL_POINTS)).round().astype(int))
    return [points[i] for i in at]
