"""What families share: the training schedule's index, and what may not be loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.errors import InputError
from server_stub.families import FAMILIES, Family
from server_stub.families.base import training_index


@given(st.integers(1, 5000), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_every_t_has_a_step_of_the_schedule(steps: int, t: float) -> None:
    """The index is within the schedule and is the step whose share of it holds t."""
    index = int(training_index(torch.tensor([t], dtype=torch.float64), steps)[0])
    assert 0 <= index < steps
    assert index <= t * steps < index + 1 or index == steps - 1


@pytest.mark.parametrize("library", ["os", "custom_nodes", "transformers_modules.x", ""])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_index_that_names_another_library_loads_nothing(family: str, library: str) -> None:
    """Loading would import it; the error comes before the folder is even looked for."""
    index: dict[str, Any] = {"_class_name": family, "unet": [library, "system"]}
    with pytest.raises(InputError, match="only diffusers and transformers load"):
        FAMILIES[family].load("/nowhere", index)


def test_each_family_is_found_by_its_pipelines_name() -> None:
    """The class in a `model_index.json` picks the family."""
    assert {name: family.pipeline_class.__name__ for name, family in FAMILIES.items()} == {n: n for n in FAMILIES}
    assert all(issubclass(family, Family) for family in FAMILIES.values())
