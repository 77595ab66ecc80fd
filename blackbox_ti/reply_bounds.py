"""How long a host's replies can be, in bytes, given what was asked: no more of them is read."""

from __future__ import annotations

from typing import Final

from blackbox_ti.replies import count_candidates
from blackbox_ti.wire import ImagesRequest, Limits, LossRequest

__all__ = ["PAGE_BYTES", "RECORD_BYTES", "images_bound", "losses_bound"]

RECORD_BYTES: Final = 1_048_576
PAGE_BYTES: Final = 67_108_864
# Four bytes in base64 with what rounding adds; a rejection's detail of 2,000 characters, escaped, and its other fields.
_BYTES_PER_LOSS: Final = 6
_BYTES_PER_CANDIDATE: Final = 13_000


def losses_bound(request: LossRequest, *, bytes_per_loss: int = _BYTES_PER_LOSS) -> int:
    """Return the most that a reply to a loss request can hold; `bytes_per_loss` is for hosts that write numbers out."""
    return RECORD_BYTES + count_candidates(request) * (_BYTES_PER_CANDIDATE + bytes_per_loss * len(request.samples))


def images_bound(request: ImagesRequest, limits: Limits) -> int:
    """Return the most that a reply to an images request can hold, its files in base64."""
    return RECORD_BYTES + len(request.items) * (_BYTES_PER_CANDIDATE + limits.max_image_bytes * 4 // 3)
