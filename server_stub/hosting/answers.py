"""Requests answered on an engine at once: checked, done and told as our server does, without its queue and books."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from blackbox_ti.wire import Charge, ImagesReply, ImagesRequest, LossReply, LossRequest, ModelCard
from server_stub.engine import Engine
from server_stub.replies import cost_of_scored, images_reply, loss_reply
from server_stub.validation import check_images, check_loss

__all__ = ["answer_images", "answer_loss"]

ChargeOf = Callable[[tuple[int, int]], Charge]


def answer_loss(engine: Engine, card: ModelCard, asked: LossRequest, latents: Any, charge_of: ChargeOf) -> LossReply:
    """Return the reply to a loss request about a concept's latents; `charge_of` makes the charge of what it cost.

    Raises:
        ProblemError: the request is over a limit, or does not fit the model or the concept.
    """
    plan = check_loss(asked, card, engine, latents=latents, concept_images=len(latents))
    losses = engine.losses(plan.job) if plan.accepted else np.empty((0, len(asked.samples)), np.float32)
    return loss_reply(plan, losses, card, charge_of(cost_of_scored(losses)))


def answer_images(
    engine: Engine, card: ModelCard, asked: ImagesRequest, max_side: int, charge_of: ChargeOf
) -> ImagesReply:
    """Return the reply to an images request whose pictures have at most `max_side` pixels a side.

    Raises:
        ProblemError: the request is over a limit, or does not fit the model.
    """
    plan = check_images(asked, card, engine, max_side=max_side)
    pictures = engine.images(plan.job) if plan.wanted else []
    return images_reply(plan, pictures, charge_of((plan.forwards, plan.queries)))
