"""What endpoints without a host have in common: what computes is in this process, and is asked one thing at a time."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.concept import encode_png
from blackbox_ti.endpoint import Guarantees
from blackbox_ti.errors import RejectedError
from blackbox_ti.tally import Tally
from blackbox_ti.wire import Tensor, UsageReply, decode_tensor

__all__ = ["Local", "decoded", "encoded"]

P = TypeVar("P")


class Local(Generic[P]):
    """An endpoint in this process; P is what it keeps of a concept's pictures. Nothing has a price here."""

    guarantees = Guarantees(receipts=False)

    def __init__(self) -> None:
        self._concepts: dict[str, P] = {}
        self._tally = Tally()
        self._lane = threading.Lock()

    def delete_concept(self, concept: str) -> None:
        """Forget the concept."""
        self._concepts.pop(concept, None)

    def usage(self) -> UsageReply:
        """Return what was asked so far."""
        return self._tally.usage("in-process", "USD")

    def close(self) -> None:
        """Nothing to let go of."""

    def _concept(self, concept: str) -> P:
        """Return what is kept of a concept.

        Raises:
            RejectedError: it was never registered, or is deleted.
        """
        if concept not in self._concepts:
            raise RejectedError("no such concept here; register the pictures first")
        return self._concepts[concept]


def decoded(embeddings: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """Return a request's embeddings, encoder -> (B, T, D) float32."""
    return {name: decode_tensor(tensor) for name, tensor in embeddings.items()}


def encoded(picture: Image.Image) -> str:
    """Return a picture as a reply holds it: a PNG file in base64."""
    return base64.b64encode(encode_png(picture)).decode("ascii")
