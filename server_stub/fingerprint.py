"""The fingerprint of a model: what must be the same for losses to be comparable."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["fingerprint"]


def fingerprint(pipe: Any) -> str:
    """Return the SHA-256, in hex, over a pipeline's weights, tokenizers and noise schedule.

    Weights are hashed as loaded: component and parameter names in sorted order, dtype, shape, bytes. The same weights
    loaded in another dtype are another model.
    """
    digest = hashlib.sha256()
    for name, component in sorted(pipe.components.items()):
        if isinstance(component, nn.Module):
            for key, tensor in sorted(component.state_dict().items()):
                _add(digest, f"{name}.{key}", tensor)
        elif hasattr(component, "get_vocab"):
            _add_json(digest, name, component.get_vocab())
    config = {key: value for key, value in pipe.scheduler.config.items() if not key.startswith("_")}
    _add_json(digest, type(pipe.scheduler).__name__, config)
    return digest.hexdigest()


def _add(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(raw.numpy().data)


def _add_json(digest: Any, name: str, value: object) -> None:
    digest.update(f"{name}\0{json.dumps(value, sort_keys=True, default=str)}\0".encode())
