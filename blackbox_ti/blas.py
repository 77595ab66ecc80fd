"""NumPy's linear algebra on one thread, for a client that mostly waits.

OpenBLAS keeps a thread a core and lets those that are idle wait by spinning, which cost five times the processor time
of the search itself; its matrices are too small to gain by them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from threadpoolctl import threadpool_limits

__all__ = ["one_thread"]


def one_thread() -> AbstractContextManager[object]:
    """Return a context in which the BLAS libraries loaded so far keep to one thread; it ends as it was before."""
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits
