"""Every knob of the reference server, read from the environment with the prefix `BLACKBOX_TI_`.

Nested limits take two underscores: `BLACKBOX_TI_LIMITS__MAX_CANDIDATES=32`.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from blackbox_ti.wire import Limits, Prices

__all__ = ["Settings", "is_loopback"]

Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def is_loopback(host: str) -> bool:
    """Return whether `host`, an address or `localhost`, can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Settings(BaseSettings):
    """What the host decides; times are in seconds, sizes in bytes.

    `max_norm` null means `max_norm_factor` times (norm_mean + 3 norm_std) of the vocabulary: gradient inversions end
    at about ten times the vocabulary's norm, which the bound has to allow. `database_url` null means a SQLite file in
    `state_dir`; `state_dir` null means a temporary folder that ends with the process. `micro_batch` is the rows of a
    denoiser pass, null for those usual on the kind of device, and `auto` to measure them at start; `resolution` is in
    pixels, null for the model's own.
    """

    model_config = SettingsConfigDict(env_prefix="BLACKBOX_TI_", env_nested_delimiter="__", frozen=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8900
    model: str = "tiny"
    revision: str | None = None
    variant: str | None = None
    allow_pickle: bool = False
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    micro_batch: Positive | Literal["auto"] | None = None
    resolution: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    int8: bool = False
    offload: bool = False
    state_dir: Path | None = None
    database_url: SecretStr | None = None

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tls_client_auth: Literal["required", "optional"] = "required"
    behind_tls_proxy: bool = False

    vocabulary: bool = False
    objectives: Annotated[tuple[Literal["loss", "images"], ...], Field(min_length=1)] = ("loss", "images")
    reply_mode: Literal["exact", "rounded", "rank"] = "exact"
    reply_digits: Annotated[int, Field(ge=1, le=9)] = 4
    prices: Prices = Prices()

    limits: Limits = Limits()
    max_norm: PositiveFloat | None = None
    max_norm_factor: PositiveFloat = 32.0
    max_side_factor: PositiveFloat = 2.0
    max_header_bytes: Positive = 16_384
    max_json_depth: Positive = 16
    max_queue: Positive = 256
    max_active: Positive = 1024
    max_vocabulary_page: Positive = 4096
    max_receipts_page: Positive = 500
    requests_per_second: PositiveFloat = 50.0
    requests_burst: Positive = 200
    header_timeout: PositiveFloat = 20.0
    body_timeout: PositiveFloat = 60.0
    retry_after: PositiveFloat = 1.0
    reply_retention: Annotated[float, Field(ge=86_400)] = 172_800.0
    lease: Annotated[float, Field(ge=1)] = 30.0
    drain_timeout: PositiveFloat = 600.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def max_side(self, resolution: int) -> int:
        """Return the most pixels a side of a picture may have, of a model with this resolution."""
        return int(resolution * self.max_side_factor)

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TLS needs both a certificate and its key: set tls_cert and tls_key")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("mutual TLS needs the server's own certificate too: set tls_cert and tls_key")
        return self
