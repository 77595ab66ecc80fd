"""From what the engine computed to what the host lets out: exact, rounded, or ranks, and never a NaN."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.wire import Charge, ImagesReply, LossReply, ModelCard, Rejection, encode_tensor
from server_stub.validation import ImagePlan, LossPlan

__all__ = ["NON_FINITE_LOSS", "images_reply", "loss_reply", "ranking", "rounded"]

Array = NDArray[np.float32]

NON_FINITE_LOSS = "non_finite_loss"


def loss_reply(plan: LossPlan, losses: Array, card: ModelCard, charge: Charge) -> LossReply:
    """Return the reply for losses (len(plan.accepted), n), as the card's reply mode has it."""
    finite = [bool(np.isfinite(row).all()) for row in losses]
    kept = [candidate for candidate, good in zip(plan.accepted, finite, strict=True) if good]
    failed = [candidate for candidate, good in zip(plan.accepted, finite, strict=True) if not good]
    found = [Rejection(candidate=c, code=NON_FINITE_LOSS, detail="the model's loss is not finite") for c in failed]
    rejected = sorted([*plan.rejected, *found], key=lambda rejection: rejection.candidate)
    good = losses[finite]
    if card.reply_mode == "rank":
        order = ranking(good, kept)
        return LossReply(candidates=kept, losses=None, ranking=order, rejected=rejected, charge=charge)
    if card.reply_mode == "rounded":
        good = rounded(good, card.reply_digits or 1)
    return LossReply(candidates=kept, losses=encode_tensor(good), rejected=rejected, charge=charge)


def ranking(losses: Array, candidates: Sequence[int]) -> list[int]:
    """Return `candidates` from the best mean loss to the worst; of equals the first comes first."""
    means = losses.mean(axis=1, dtype=np.float64)
    return [candidates[index] for index in np.argsort(means, kind="stable")]


def rounded(values: Array, digits: int) -> Array:
    """Return `values` to `digits` significant decimal digits, as the nearest float32."""
    texts = (f"{value:.{digits - 1}e}" for value in values.ravel().tolist())
    return np.fromiter((float(text) for text in texts), np.float32, count=values.size).reshape(values.shape)


def images_reply(plan: ImagePlan, pictures: Sequence[Image.Image], charge: Charge) -> ImagesReply:
    """Return the reply with each picture as a PNG in its item's place."""
    files: list[str | None] = [None] * plan.total
    for index, picture in zip(plan.wanted, pictures, strict=True):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        files[index] = base64.b64encode(buffer.getvalue()).decode("ascii")
    return ImagesReply(images=files, rejected=list(plan.rejected), charge=charge)
