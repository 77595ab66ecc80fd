"""A canary: one question asked at the start and again now and then, to notice a model that was swapped in silence.

The first answer is asked for twice, so that a host whose arithmetic wobbles is judged by its own wobble. A later answer
has changed when a loss moved by more than

    max(precision of the reply mode, 4 * wobble)

of its size; where the host only ranks, when the order of a few fixed candidates did. That order may survive a small
change of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from blackbox_ti.canary_plan import RIVALS
from blackbox_ti.drift import drift, precision
from blackbox_ti.errors import ResumeError
from blackbox_ti.evaluation import Evaluator, Scores
from blackbox_ti.subspace import Embedding
from blackbox_ti.wire import ModelCard

__all__ = ["Canary", "rivals"]

_WOBBLES: Final = 4.0


def rivals(embedding: Embedding, card: ModelCard, rng: np.random.Generator) -> Embedding:
    """Return candidates (RIVALS, T, D) about `embedding` (T, D), as far from it as words are from zero."""
    found = {}
    for encoder in card.encoders:
        vectors = embedding[encoder.name]
        steps = rng.normal(size=(RIVALS, *vectors.shape))
        steps *= encoder.norm_mean / np.linalg.norm(steps, axis=-1, keepdims=True)
        found[encoder.name] = (vectors[None] + steps).astype(np.float32)
    return found


class Canary:
    """Asks `bank` about `candidates`, encoder -> (n, T, D), of the host; `describe` returns its card afresh.

    `changes` counts how often the answer, or the fingerprint on the card, was another than the time before;
    `last_drift` is the latest answer's relative change.
    """

    def __init__(
        self,
        evaluator: Evaluator[Any],
        candidates: Embedding,
        bank: Sequence[Any],
        describe: Callable[[], ModelCard],
    ) -> None:
        self._evaluator, self._candidates, self._bank = evaluator, candidates, bank
        self._describe = describe
        self._fingerprint = evaluator.card.fingerprint
        self._reference: Scores | None = None
        self._tolerance = precision(evaluator.card)
        self.changes = 0
        self.last_drift = 0.0

    def open(self) -> None:
        """Ask twice: the answer to compare with, and how much it wobbles by itself."""
        first = self._ask("canary/0")
        wobble = drift(first, self._ask("canary/0/again"))
        if np.isfinite(wobble):
            self._tolerance = max(self._tolerance, _WOBBLES * wobble)
        self._reference = first

    def check(self, generation: int) -> bool:
        """Ask again; return whether the host changed since the answer before, which the new answer then replaces."""
        assert self._reference is not None
        swapped = self._other_fingerprint()
        now = self._ask(f"canary/{generation}")
        self.last_drift = drift(self._reference, now)
        changed = swapped or self.last_drift > self._tolerance
        if changed:
            self.changes += 1
            self._reference = now
        return changed

    def _ask(self, label: str) -> Scores:
        return self._evaluator.scores(self._candidates, self._bank, label)

    def _other_fingerprint(self) -> bool:
        """Return whether the card now names another model than before; a run's book refuses such a card."""
        try:
            told = self._describe().fingerprint
        except ResumeError:
            told = ""
        before, self._fingerprint = self._fingerprint, told
        return told != before
