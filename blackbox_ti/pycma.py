"""pycma without plots and statistics: `cma`, imported light.

pycma takes matplotlib and scipy.stats in where they are installed, 90 MB and seconds of start-up for what the search
never calls, and does without them where they are not. So they are absent for as long as it is being imported here, by
the import system's own word for it: None in `sys.modules`. Whoever imports pycma first has it as they did.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["absent", "cma"]


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Let the import of these modules fail, where they are not imported yet, until the context is left."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None is what the import system documents
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with absent("matplotlib", "scipy"), warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Could not import matplotlib", UserWarning)
    import cma
