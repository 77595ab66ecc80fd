"""What a denoiser computes before it first looks at the text: the same for all candidates, so run once a sample.

A UNet's first layers see noise and timestep alone: 8 % of the bundled model's work, 5 % of Stable Diffusion 1.5's at
512 pixels. Which modules these are is found by running them: those whose output does not change with the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from server_stub.engine import Slice
from server_stub.families import Conditioning
from server_stub.loss_work import LossWork, pad
from server_stub.module_outputs import EndOfPassError, answering, hearing, multiplies

__all__ = ["Stem", "StemKeeper"]

_MOST_BYTES: Final = 256 * 2**20

Run = Callable[[], object]
Denoise = Callable[[Tensor, Tensor, Conditioning], Tensor]


@dataclass(frozen=True)
class Stem:
    """Modules that a pass calls once each, in this order, and that return one tensor (rows, ...)."""

    modules: Sequence[nn.Module]

    @classmethod
    def of(cls, denoiser: nn.Module, run: Run) -> Self | None:
        """Return the stem that `run` shows, or None where there is nothing to share.

        `run` makes a pass over at least two rows that differ in nothing but their texts.
        """
        called: Counter[str] = Counter()
        names = {module: name for name, module in denoiser.named_modules()}

        def note(module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() and len(output) > 1:  # one row is of the whole batch
                if bool((output != output[:1]).any()):
                    raise EndOfPassError
                called[names[module]] += 1

        with hearing(names, note):
            run()
        inner = {name for name in called for other in called if name.startswith(other + ".")}
        outer = [denoiser.get_submodule(name) for name, times in called.items() if times == 1 and name not in inner]
        modules = [module for module in outer if multiplies(module)]
        return cls(modules) if modules else None

    def outputs(self, run: Run) -> list[Tensor]:
        """Return what each module gives in a pass, which goes no further than the last of them."""
        found: list[Tensor] = []

        def keep(module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
            found.append(output)
            if module is self.modules[-1]:
                raise EndOfPassError

        with hearing(self.modules, keep):
            run()
        return found

    def given(self, outputs: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Let the modules return `outputs`, one each, in place of computing them."""
        return answering(zip(self.modules, outputs, strict=True))


@dataclass
class _Kept:
    """Outputs of a work's samples, and the rows last taken of them: those of the next pass are often the same."""

    outputs: Sequence[Tensor]
    place: tuple[int, int] = (0, 0)
    rows: Sequence[Tensor] = ()

    def take(self, rows: Slice) -> Sequence[Tensor]:
        """Return the outputs for rows of the work; every candidate's rows name the samples in the same order."""
        place = rows.start % len(self.outputs[0]), rows.stop - rows.start
        if place != self.place:
            index = rows.work.samples(rows.start, rows.stop)
            self.place, self.rows = place, [output[index] for output in self.outputs]
        return self.rows


class StemKeeper:
    """Stems of the samples of work under way, run when first asked for; `denoise` is a pass of the denoiser.

    What is kept at a time is bounded: work that comes when there is no room is scored without.
    """

    def __init__(self, stem: Stem, denoise: Denoise, most_bytes: int = _MOST_BYTES) -> None:
        self.stem = stem
        self._denoise, self._most_bytes = denoise, most_bytes
        self._kept: WeakKeyDictionary[LossWork, _Kept | None] = WeakKeyDictionary()

    def given(self, slices: Sequence[Slice], conditioning: Conditioning, size: int) -> AbstractContextManager[None]:
        """Return what spares a pass of `size` rows the stem, or nothing where it is not kept for all of `slices`.

        What is not there yet is run in such passes too, under any `conditioning` of one row or more.
        """
        kept = [self._of(each.work, conditioning, size) for each in slices]
        known = [mine.take(each) for each, mine in zip(slices, kept, strict=True) if mine is not None]
        if len(known) < len(kept):
            return nullcontext()
        return self.stem.given([pad(parts, size) for parts in zip(*known, strict=True)])

    def _of(self, work: LossWork, conditioning: Conditioning, size: int) -> _Kept | None:
        if work not in self._kept:
            saves = -(-work.rows // size) > -(-len(work.noisy) // size)  # the stem takes whole passes too
            self._kept[work] = self._run(work, conditioning, size) if saves else None
        return self._kept[work]

    def _run(self, work: LossWork, conditioning: Conditioning, size: int) -> _Kept | None:
        texts = {key: pad([value[:size]], size) for key, value in conditioning.items()}
        room = self._most_bytes - sum(_bytes(kept.outputs) for kept in self._kept.values() if kept)
        parts: list[list[Tensor]] = []
        for start in range(0, (count := len(work.noisy)), size):
            noisy, timestep = (pad([rows[start : start + size]], size) for rows in (work.noisy, work.timestep))
            outputs = self.stem.outputs(partial(self._denoise, noisy, timestep, texts))
            if _bytes(outputs) * count > room * size:
                return None
            parts.append(outputs)
        return _Kept([torch.cat(outputs)[:count] for outputs in zip(*parts, strict=True)])


def _bytes(outputs: Sequence[Tensor]) -> int:
    return sum(output.nbytes for output in outputs)
