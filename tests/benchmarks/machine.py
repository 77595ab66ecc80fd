"""What a benchmark ran on, printed with every figure."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from importlib.metadata import version
from pathlib import Path

__all__ = ["machine", "memory", "reset_peak"]

_PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy", "cma")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def machine() -> dict[str, str]:
    """Return processor, cores, Python and the packages that do the arithmetic."""
    told = {"processor": _processor(), "cores": str(os.cpu_count()), "python": platform.python_version()}
    return told | {package: version(package) for package in _PACKAGES}


def memory(name: str, status: Path = Path("/proc/self/status")) -> int:
    """Return `VmRSS` or `VmHWM` of a process's status file, in bytes.

    Raises:
        OSError: the system has no such file, or the file no such line.
    """
    for line in status.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{status} does not tell {name}")


def reset_peak() -> None:
    """Give freed memory back to the system, and start the kernel's high-water mark anew (`man 5 proc`, `clear_refs`).

    Raises:
        OSError: the system has no such file, or no glibc.
        AttributeError: its C library does not give memory back on demand.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
