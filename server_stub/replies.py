"""From what the engine computed to what the host lets out: exact, rounded, or ranks, and never a NaN."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.wire import (
    Charge,
    ImagesReply,
    LossReply,
    ModelCard,
    ProblemCode,
    Rejection,
    VocabularyReply,
    encode_tensor,
    loss_cost,
)
from server_stub.engine import Engine
from server_stub.problems import ProblemError
from server_stub.validation import ImagePlan, LossPlan

__all__ = ["NON_FINITE_LOSS", "cost_of_scored", "images_reply", "loss_reply", "ranking", "rounded", "vocabulary_reply"]

Array = NDArray[np.float32]

NON_FINITE_LOSS = "non_finite_loss"
_PAGE_BYTES: Final = 2**24


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


def cost_of_scored(losses: Array) -> tuple[int, int]:
    """Return (forwards, queries) of losses (candidates, n): a candidate without finite losses costs nothing."""
    return loss_cost(int(np.isfinite(losses).all(axis=1).sum()), losses.shape[1])


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


def vocabulary_reply(engine: Engine, card: ModelCard, encoder: str, offset: int, most: int) -> VocabularyReply:
    """Return at most `most` rows of an encoder's token table from `offset` on, fewer where they are long.

    Raises:
        ProblemError: the host does not offer its vocabulary, or has no such encoder.
    """
    if not card.vocabulary:
        raise ProblemError(ProblemCode.NOT_OFFERED, "this host does not offer its vocabulary")
    known = {e.name: e.dim for e in card.encoders}
    if encoder not in known:
        raise ProblemError(ProblemCode.INVALID_REQUEST, f"the encoders are {', '.join(known)}")
    tokens, embeddings = engine.vocabulary(encoder)
    end = offset + min(most, max(1, _PAGE_BYTES // (4 * known[encoder])))
    return VocabularyReply(
        encoder=encoder,
        total=len(tokens),
        offset=offset,
        tokens=list(tokens[offset:end]),
        embeddings=encode_tensor(embeddings[offset:end]),
    )
