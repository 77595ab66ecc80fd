"""What the training's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from server_stub.tiny.train.data import load_pictures
from tests.server_stub.tiny import PICTURES


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a few pictures."""
    folder = tmp_path_factory.mktemp("work")
    load_pictures(folder, 0, PICTURES)
    return folder
