"""Tests of settings from the environment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from server_stub.settings import Settings, is_loopback


def test_the_environment_sets_every_knob(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables with the prefix are read, nested limits and prices too; arguments go first."""
    for name, value in {
        "PORT": "1234",
        "LIMITS__MAX_CANDIDATES": "5",
        "PRICES__FORWARD_MICROS": "7",
        "DATABASE_URL": "postgresql://u:secret@h/d",
        "OBJECTIVES": '["loss"]',
    }.items():
        monkeypatch.setenv(f"BLACKBOX_TI_{name}", value)
    settings = Settings(host="::1")
    assert (settings.port, settings.host, settings.limits.max_candidates) == (1234, "::1", 5)
    assert (settings.prices.forward_micros, settings.objectives) == (7, ("loss",))
    assert Settings(port=1).port == 1
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    "bad",
    [
        {"tls_cert": "c.pem"},
        {"tls_client_ca": "ca.pem"},
        {"reply_retention": 86_399},
        {"port": 65_536},
        {"requests_per_second": 0},
        {"objectives": ()},
    ],
)
def test_settings_that_do_not_work_are_refused(bad: dict[str, object]) -> None:
    """Half a TLS setup, replies kept for less than a day, and senseless numbers do not validate."""
    with pytest.raises(ValidationError):
        Settings.model_validate(bad)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_loopback_is_known_by_address(host: str, loopback: bool) -> None:
    """Only addresses that cannot leave the machine are loopback."""
    assert is_loopback(host) is loopback


def test_a_side_is_bounded_by_the_models_resolution() -> None:
    """In whole pixels."""
    assert Settings().max_side(512) == 1024
    assert Settings(max_side_factor=1.51).max_side(64) == 96
