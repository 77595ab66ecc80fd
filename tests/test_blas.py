"""Tests of keeping NumPy's linear algebra to one thread."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_info

from blackbox_ti.blas import one_thread


def _threads() -> list[int]:
    np.linalg.eigh(np.eye(2))  # the library is loaded by now
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_linear_algebra_keeps_to_one_thread_and_is_let_go_again() -> None:
    """Inside the context every BLAS has one thread, afterwards as many as before."""
    before = _threads()
    with one_thread():
        assert set(_threads()) <= {1}
    assert _threads() == before
