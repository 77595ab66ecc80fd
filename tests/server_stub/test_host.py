"""Tests of what the routes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from server_stub.host import Host, model_card
from server_stub.settings import Settings
from tests.server_stub.fake_engine import FakeEngine


def test_a_bound_on_norms_of_ones_own_goes_first() -> None:
    """`max_norm` in the settings replaces the one from the vocabulary, whose factor is a setting too."""
    engine = FakeEngine()
    (encoder,) = engine.info.encoders
    typical = encoder.norm_mean + 3 * encoder.norm_std
    assert model_card(engine, Settings(max_norm=3.5), "ab" * 32).limits.max_norm == 3.5
    assert model_card(engine, Settings(max_norm_factor=2), "ab" * 32).limits.max_norm == pytest.approx(2 * typical)


def test_state_is_kept_with_a_folder_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    """The key, the books and the concepts are the owner's alone, and the next start signs with the same key."""
    keys = []
    for _ in range(2):
        host = Host(FakeEngine(), Settings(state_dir=tmp_path / "state"))
        keys.append(host.card.receipt_public_key)
        for path in (tmp_path / "state").rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path.name
        host.close()
        host.close()
    assert keys[0] == keys[1]


def test_without_a_folder_nothing_is_left_behind() -> None:
    """Without `state_dir` everything is in a temporary folder that ends with the host."""
    host = Host(FakeEngine(), Settings())
    assert host.folder.exists()
    host.close()
    assert not host.folder.exists()


def test_a_model_that_does_not_warm_up_is_never_ready() -> None:
    """When the warm-up fails, readiness stays off and the failure is in the future for `serve` to see."""
    engine = FakeEngine()
    engine.error = RuntimeError("out of memory")
    host = Host(engine, Settings())
    with pytest.raises(RuntimeError):
        host.warm.result(10)
    assert not host.ready
    host.close()
