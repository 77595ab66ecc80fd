"""Memory that a process keeps for its next pass.

glibc gives large blocks back to the system when they are freed, and every pass of a denoiser faults them in anew: on a
model of Stable Diffusion 1.5's size a fifth of the processor time. A server makes passes of one shape for as long as it
lives, so what it freed it will need again.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["keep_memory"]

# malloc.h: no trimming, no blocks of their own from the system, one arena for all threads (man 3 mallopt)
_KEPT: Final = {"M_TRIM_THRESHOLD": (-1, -1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}


def keep_memory() -> bool:
    """Let this process keep what it frees; return whether the C library knows how (glibc does)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # other C libraries; Windows takes no None
        return False
    done = [mallopt(parameter, value) for parameter, value in _KEPT.values()]
    return bool(min(done) == 1)
