"""The package as a whole: what importing it loads, and its public names."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

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


def test_nothing_loads_a_pickle() -> None:
    """No module imports a format that runs code when it is read, or calls torch.load."""
    forbidden = {"pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    for package in ("blackbox_ti", "server_stub"):
        for path in (Path(blackbox_ti.__file__).parents[1] / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not {name.partition(".")[0] for name in names} & forbidden, path
                if isinstance(node, ast.Call):
                    called, given = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
                    assert called not in {"torch.load", "eval", "exec"}, (path, called)
                    assert not (called == "np.load" and "allow_pickle" in given), path
