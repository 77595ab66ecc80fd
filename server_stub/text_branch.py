"""What a denoiser makes of the text alone, the keys and values of its cross-attention: run once a text, not once a row.

On the bundled model that is 5 % of a pass. Which modules these are is found by running them: those that are called
with nothing but a tensor of the conditioning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Self

from torch import Tensor, nn

from server_stub.families import Conditioning
from server_stub.module_outputs import answering, hearing, multiplies

__all__ = ["TextBranch"]

_NAME: Final = "text branch {}"


@dataclass(frozen=True)
class TextBranch:
    """Modules that a pass calls once each, every one with the tensor of the conditioning that `keys` names."""

    modules: Sequence[nn.Module]
    keys: Sequence[str]

    @classmethod
    def of(cls, denoiser: nn.Module, run: Callable[[], object], conditioning: Conditioning) -> Self | None:
        """Return the branch that `run` shows, a pass under `conditioning`, or None where there is none."""
        called: Counter[nn.Module] = Counter()
        found: dict[nn.Module, str] = {}

        def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            called[module] += 1
            key = next((k for k, v in conditioning.items() if len(inputs) == 1 and inputs[0] is v), None)
            if key is not None and isinstance(output, Tensor) and multiplies(module):
                found[module] = key

        leaves = [module for module in denoiser.modules() if not any(module.children())]
        with hearing(leaves, note):
            run()
        once = {module: key for module, key in found.items() if called[module] == 1}
        return cls(list(once), list(once.values())) if once else None

    def with_outputs(self, conditioning: Conditioning) -> Conditioning:
        """Return the conditioning of some texts with what the modules make of it, each (texts, ...)."""
        made = {_NAME.format(i): self.modules[i](conditioning[key]) for i, key in enumerate(self.keys)}
        return {**conditioning, **made}

    def given(self, conditioning: Conditioning) -> AbstractContextManager[None]:
        """Let the modules return what `with_outputs` kept of the texts of a pass, by row."""
        return answering((module, conditioning[_NAME.format(i)]) for i, module in enumerate(self.modules))
