"""What the protocol's records have in common: how they treat unknown fields, and their fields' bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Finite", "Hex256", "NonNegative", "Positive", "Prompt", "Record", "Request", "Seed", "ShortText"]

Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
ShortText = Annotated[str, Field(max_length=256)]
Prompt = Annotated[str, Field(max_length=2000)]
Hex256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """A record a host sends: unknown fields are a newer host's and are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Request(BaseModel):
    """A record a client sends: unknown fields are mistakes and are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
