"""The fingerprint: everything that moves a loss moves it, and nothing else does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from server_stub.fingerprint import fingerprint


class Words:
    """A tokenizer as far as a fingerprint looks."""

    def __init__(self, **vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def get_vocab(self) -> dict[str, int]:
        """Return the ids of tokens."""
        return self._vocabulary


def _pipe(**changes: Any) -> Any:
    torch.manual_seed(0)
    parts: dict[str, Any] = {"unet": nn.Linear(3, 2), "vae": nn.Linear(2, 2), "tokenizer": Words(a=0, b=1)}
    config = {"num_train_timesteps": 1000, "_class_name": "x", "_diffusers_version": "1"} | changes.pop("config", {})
    scheduler = SimpleNamespace(config=config)
    return SimpleNamespace(components=parts | changes, scheduler=scheduler)


def test_it_is_a_sha256_and_repeats() -> None:
    """64 hex digits, the same for the same model."""
    assert fingerprint(_pipe()) == fingerprint(_pipe())
    assert len(bytes.fromhex(fingerprint(_pipe()))) == 32


@pytest.mark.parametrize(
    "changed",
    [
        {"unet": nn.Linear(3, 2)},
        {"unet": nn.Linear(3, 2, bias=False)},
        {"tokenizer": Words(a=1, b=0)},
        {"second": Words(a=0)},
        {"config": {"num_train_timesteps": 999}},
        {"config": {"prediction_type": "v_prediction"}},
    ],
)
def test_whatever_moves_a_loss_moves_it(changed: dict[str, Any]) -> None:
    """Weights, parts, tokenizers and noise schedules are all in it."""
    assert fingerprint(_pipe(**changed)) != fingerprint(_pipe())


def test_the_dtype_and_the_place_of_weights_are_in_it() -> None:
    """The same numbers in bfloat16, in another shape, or under another name, are another model."""
    zeros = {"unet": nn.Linear(2, 2), "vae": nn.Linear(2, 2)}
    for part in zeros.values():
        nn.init.zeros_(part.weight)
        nn.init.ones_(part.bias)
    plain = fingerprint(_pipe(**zeros))
    assert fingerprint(_pipe(**zeros | {"unet": nn.Linear(2, 2).bfloat16()})) != plain
    flat = nn.Linear(4, 1, bias=False)
    square = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(flat.weight)
    nn.init.zeros_(square.weight)
    assert fingerprint(_pipe(unet=flat)) != fingerprint(_pipe(unet=square))
    renamed = _pipe(**zeros)
    renamed.components["other"] = renamed.components.pop("unet")
    assert fingerprint(renamed) != plain


def test_the_order_of_parts_and_the_libraries_versions_are_not_in_it() -> None:
    """Neither moves a loss."""
    pipe = _pipe()
    pipe.components = dict(reversed(pipe.components.items()))
    assert fingerprint(pipe) == fingerprint(_pipe()) == fingerprint(_pipe(config={"_diffusers_version": "2"}))
