"""What calls cost and what caps allow: pure arithmetic on integers, exact before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass

from blackbox_ti.errors import BudgetSpentError, InputError
from blackbox_ti.wire import Charge, Prices, Receipt, images_cost, loss_cost

__all__ = ["Caps", "Cost", "charge_of", "check_caps", "cost_of", "cost_of_images", "cost_of_losses"]


@dataclass(frozen=True)
class Cost:
    """Forwards, queries, and money in millionths of the currency."""

    forwards: int = 0
    queries: int = 0
    price_micros: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forwards + other.forwards, self.queries + other.queries, self.price_micros + other.price_micros
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.forwards - other.forwards, self.queries - other.queries, self.price_micros - other.price_micros
        )


@dataclass(frozen=True, kw_only=True)
class Caps:
    """What a run may spend, None for no cap; `wall_seconds` adds up over the run's sessions.

    Raises:
        InputError: a cap is negative, or not a number.
    """

    forwards: int | None = None
    queries: int | None = None
    price_micros: int | None = None
    wall_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("forwards", "queries", "price_micros", "wall_seconds"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"the cap on {name} must be zero or more, not {value}")


def charge_of(cost: tuple[int, int], prices: Prices | None = None) -> Charge:
    """Return a cost (forwards, queries) as a charge at `prices`, or without a price."""
    priced = _priced(cost, prices or Prices())
    return Charge(forwards=priced.forwards, queries=priced.queries, price_micros=priced.price_micros)


def cost_of(charge: Charge | Receipt) -> Cost:
    """Return what a charge came to, or the charge that a receipt is for."""
    return Cost(charge.forwards, charge.queries, charge.price_micros)


def _priced(cost: tuple[int, int], prices: Prices) -> Cost:
    return Cost(*cost, prices.price_of(*cost))


def cost_of_losses(candidates: int, samples: int, prices: Prices) -> Cost:
    """Return the exact cost of scoring `candidates` on `samples` samples each."""
    return _priced(loss_cost(candidates, samples), prices)


def cost_of_images(items: int, num_inference_steps: int, guidance_scale: float, prices: Prices) -> Cost:
    """Return the exact cost of making `items` pictures."""
    return _priced(images_cost(items, num_inference_steps, guidance_scale), prices)


def check_caps(caps: Caps, spent: Cost, wall_seconds: float, cost: Cost) -> None:
    """Refuse a call of `cost` that would go over a cap, given what is spent or promised already.

    Raises:
        BudgetSpentError: names the cap, what is left of it, and what the call would cost.
    """
    for name in ("forwards", "queries", "price_micros"):
        cap, before, more = getattr(caps, name), getattr(spent, name), getattr(cost, name)
        if cap is not None and before + more > cap:
            unit = "millionths of money" if name == "price_micros" else name
            left = max(0, cap - before)
            raise BudgetSpentError(f"the cap of {cap} {unit} has {left} left, and the next call costs {more}")
    if caps.wall_seconds is not None and wall_seconds >= caps.wall_seconds:
        raise BudgetSpentError(f"the cap of {caps.wall_seconds:g} seconds of wall time is used up")
