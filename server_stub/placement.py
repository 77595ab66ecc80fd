"""Where a model lies and in what form: device, dtype, layout, int8, offload, compilation.

What does not go together is refused before anything is loaded. Attention is torch's own
`scaled_dot_product_attention` in every family, which picks its kernel by device and dtype.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, ParamSpec, Self

import torch
from torch import Tensor, nn

from blackbox_ti.errors import InputError
from server_stub.quantise import int8_weights

__all__ = ["DTYPES", "Placement", "compiled", "marked", "pick_device", "place"]

Given = ParamSpec("Given")

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DENOISERS: Final = ("unet", "transformer")
_KINDS: Final = ("cpu", "cuda", "mps")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What a host decides about a model's form; losses differ between forms by rounding, and int8's by a little more.

    `compile` compiles the denoiser's pass for the one shape that losses need, at warm-up; `cuda_graphs` replays it as
    one CUDA graph besides. `int8` keeps the weights of denoiser and text encoders in int8. `offload` keeps every part
    of the model in memory but the one at work.
    """

    device: str = "auto"
    dtype: str = "float32"
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    int8: bool = False
    offload: bool = False

    def resolved(self) -> Self:
        """Return the placement with its device picked, and CUDA graphs as a way to compile.

        Raises:
            InputError: a part is unknown or not there, or parts do not go together.
        """
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r} is not known; use one of {', '.join(DTYPES)}")
        device = pick_device(self.device)
        on_cuda = torch.device(device).type == "cuda"
        if self.cuda_graphs and not on_cuda:
            raise InputError(f"CUDA graphs need a CUDA device, and this is {device}; use --compile without them")
        if self.offload and not on_cuda:
            raise InputError(f"there is nothing to offload from on {device}; leave --offload out, or use --int8")
        if self.offload and (self.compile or self.cuda_graphs):
            raise InputError("compiled passes hold on to weights that --offload moves away; choose one of the two")
        if self.offload and self.int8:
            raise InputError("--int8 and --offload are not served together; try --int8 first, it costs less time")
        if self.offload and importlib.util.find_spec("accelerate") is None:
            raise InputError("--offload needs the package accelerate; install blackbox-ti[server]")
        return replace(self, device=device, compile=self.compile or self.cuda_graphs)


def pick_device(device: str) -> str:
    """Return `device`, or for `auto` the best one this machine has.

    Raises:
        InputError: it is not known, or not on this machine.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is not known; use auto, {', '.join(_KINDS)}, or cuda:1") from error
    if asked.type not in there:
        raise InputError(f"models are not served on {asked.type}; use auto, {', '.join(_KINDS)}, or cuda:1")
    if not there[asked.type] or (asked.type == "cuda" and (asked.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"this machine has no device {device}; use --device auto")
    return device


def place(pipe: Any, placement: Placement) -> torch.device:
    """Bring a loaded pipeline into the form of a resolved placement, in place, and return the device it computes on."""
    device = torch.device(placement.device)
    if placement.int8:
        for name, part in pipe.components.items():
            if name in _DENOISERS or (name.startswith("text_encoder") and isinstance(part, nn.Module)):
                int8_weights(part)
    if placement.channels_last:
        for name in _DENOISERS:
            if isinstance(part := getattr(pipe, name, None), nn.Module):
                part.to(memory_format=torch.channels_last)
    if placement.offload:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    return device


def marked(fingerprint: str, placement: Placement) -> str:
    """Return the fingerprint of a model in a form that changes its weights: another model's."""
    return hashlib.sha256(f"{fingerprint} int8".encode()).hexdigest() if placement.int8 else fingerprint


def compiled(function: Callable[Given, Tensor], placement: Placement) -> Callable[Given, Tensor]:
    """Return `function` compiled for fixed shapes where the placement asks for it, else as it is."""
    if not placement.compile:
        return function
    mode = "reduce-overhead" if placement.cuda_graphs else None
    made: Callable[Given, Tensor] = torch.compile(function, dynamic=False, mode=mode)
    return made
