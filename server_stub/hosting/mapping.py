"""The mapping file of a model hosted elsewhere by our examples: `python -m server_stub.hosting.mapping tiny > m.toml`.

Servers that can put the model card among a model's metadata (ours, MLServer) need none; Triton does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from blackbox_ti.oip_mapping import EncoderEntry, contract
from blackbox_ti.wire import ModelCard
from server_stub.diffusers_engine import DiffusersEngine
from server_stub.hosting.model import HostedModel

__all__ = ["main", "mapping_toml"]


def mapping_toml(card: ModelCard) -> str:
    """Return the mapping to the tensors that our examples serve of the model, as TOML."""
    entries = {e.name: EncoderEntry(norm_mean=e.norm_mean, norm_std=e.norm_std, dim=e.dim) for e in card.encoders}
    told = {
        "name": card.model,
        "family": card.family,
        "prediction_type": card.prediction_type,
        "fingerprint": card.fingerprint,
        "resolution": card.resolution,
        "limits": card.limits.model_copy(update={"max_concurrency": 1}),
    }
    mapping = contract(entries, card.objectives, ranked=card.reply_mode == "rank").model_copy(update=told)
    return "\n".join(_table("", mapping.model_dump(mode="json", exclude_none=True))) + "\n"


def _table(name: str, entries: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table's lines, its tables after its values."""
    if name:
        yield f"\n[{name}]"
    for key, value in entries.items():
        if not isinstance(value, dict):
            yield f"{key} = {_value(value)}"
    for key, value in entries.items():
        if isinstance(value, dict):
            yield from _table(f"{name}.{key}" if name else key, value)


def _value(value: Any) -> str:
    """Return a value in ASCII: as in JSON, but TOML 1.0 escapes letters beyond ASCII, and DEL, by their code points."""
    return "".join(c if " " <= c <= "~" else f"\\U{ord(c):08X}" for c in json.dumps(value, ensure_ascii=False))


def main(argv: list[str] | None = None) -> int:
    """Print the mapping of a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a diffusers directory, a hub id, or tiny")
    card = HostedModel(DiffusersEngine.load(parser.parse_args(argv).model)).card
    sys.stdout.write(mapping_toml(card))
    return 0


if __name__ == "__main__":
    sys.exit(main())
