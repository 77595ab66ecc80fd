"""Settings: what is refused, what a preset fills, and what a host is asked for."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import blackbox_ti
from blackbox_ti.errors import InputError
from blackbox_ti.settings import PRESETS, InversionSettings, objective_of
from tests.fake_host import FakeHost

CARD = FakeHost(dim=64).card


@pytest.mark.parametrize(
    "wrong",
    [{"popsize": 1}, {"max_forwards": 0}, {"sigma": 0.0}, {"sigma": float("nan")}, {"t_min": 0.6, "t_max": 0.4},
     {"seed": -1}, {"learnable_property": "thing"}, {"colour": "red"}, {"num_vectors": 0}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    """Out of range, not a number, or unknown."""
    with pytest.raises(ValidationError):
        InversionSettings(**wrong)  # type: ignore[arg-type]


@given(st.sampled_from(["popsize", "sigma", "answer", "whiten", "samples"]), st.integers(2, 90))
def test_a_preset_fills_what_is_not_given(name: str, number: int) -> None:
    """What the user gives holds against the preset, and what is recorded makes the same settings again."""
    given_value = {"answer": "mean", "whiten": True, "sigma": number / 7}.get(name, number)
    settings = InversionSettings(**{"preset": "paper", name: given_value})  # type: ignore[arg-type]
    assert getattr(settings, name) == given_value
    untouched = PRESETS["paper"].keys() - {name}
    assert all(getattr(settings, key) == PRESETS["paper"][key] for key in untouched)
    assert InversionSettings.model_validate(settings.model_dump()) == settings


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    """The message names them."""
    with pytest.raises(ValidationError, match="choose one of default, paper"):
        InversionSettings(preset="papre")


def test_the_default_preset_changes_nothing() -> None:
    """Naming the default is naming nothing."""
    assert InversionSettings(preset="default") == InversionSettings()


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_makes_settings(name: str) -> None:
    """What a preset says is within the bounds of what may be said."""
    assert InversionSettings(preset=name).preset == name


def test_the_package_shows_the_settings() -> None:
    """Users take them from the package itself."""
    assert blackbox_ti.InversionSettings is InversionSettings


@pytest.mark.parametrize(
    ("offered", "asked", "expected"),
    [
        (["loss", "images"], "auto", "loss"),
        (["images"], "auto", "images"),
        (["loss", "images"], "images", "images"),
        (["loss"], "loss", "loss"),
    ],
)
def test_a_host_is_asked_for_losses_where_it_offers_them(
    offered: list[str], asked: Literal["auto", "loss", "images"], expected: str
) -> None:
    """Unless told otherwise."""
    card = CARD.model_copy(update={"objectives": offered})
    assert objective_of(InversionSettings(objective=asked), card) == expected


@pytest.mark.parametrize(
    ("offered", "asked", "told"),
    [(["images"], "loss", "but images"), (["loss"], "images", "but loss"), ([], "auto", "but nothing")],
)
def test_what_a_host_does_not_offer_is_not_asked(
    offered: list[str], asked: Literal["auto", "loss", "images"], told: str
) -> None:
    """The error says what it offers instead."""
    card = CARD.model_copy(update={"objectives": offered})
    with pytest.raises(InputError, match=told):
        objective_of(InversionSettings(objective=asked), card)
