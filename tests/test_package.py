"""The package as a whole: what importing it loads, and its public names."""

from __future__ import annotations

import subprocess
import sys

import blackbox_ti


def test_importing_loads_no_torch() -> None:
    """The client, its command line included, imports light."""
    code = (
        "import sys, blackbox_ti, blackbox_ti.cli, blackbox_ti.demo, blackbox_ti.audit\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'open_clip', 'torchvision'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    """`__all__` is sorted, and each name of it can be had."""
    assert sorted(blackbox_ti.__all__) == blackbox_ti.__all__
    assert all(getattr(blackbox_ti, name) is not None for name in blackbox_ti.__all__)
