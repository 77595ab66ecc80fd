"""Tests of keeping freed memory, each in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import numpy as np
from server_stub.allocator import keep_memory
if sys.argv[1] == "kept":
    assert keep_memory()
def use():
    np.ones(8_000_000)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory their own way")
def test_freed_memory_is_used_again() -> None:
    """Blocks of 64 MB are faulted in anew each time, and once only where memory is kept."""
    assert _faults("kept") < 0.2 * _faults("given back")
