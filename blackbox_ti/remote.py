"""What endpoints with an address have in common, whatever is spoken there."""

from __future__ import annotations

import contextlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, Generic, TypedDict, TypeVar, Unpack

import httpx
import numpy as np
from pydantic import SecretStr

from blackbox_ti.attempt import Attempt
from blackbox_ti.connection import ConnectionOptions
from blackbox_ti.errors import ProtocolError, RejectedError, WireError
from blackbox_ti.retry import RetryPolicy
from blackbox_ti.transport import Transport
from blackbox_ti.wire import PROTOCOL_VERSION, ModelCard

__all__ = ["Remote", "TransportArguments", "check_version", "key_or_fresh", "told_as"]

K = TypeVar("K")

_FIRST_TRIES: Final = 3


class TransportArguments(TypedDict, total=False):
    """The arguments of `Transport` that an endpoint takes and passes on; what is left out is as `Transport` has it."""

    api_key: SecretStr | str | None
    options: ConnectionOptions | None
    policy: RetryPolicy | None
    http: httpx.BaseTransport | None
    on_attempt: Callable[[Attempt], None] | None
    rng: np.random.Generator | None
    sleep: Callable[[float], None]
    clock: Callable[[], float]


class Remote(ABC, Generic[K]):
    """An endpoint at `url`; K is what `describe` learns of the host and keeps in `_learned`."""

    def __init__(self, url: str, **transport: Unpack[TransportArguments]) -> None:
        self._transport = Transport(url, **transport)
        self._learned: K | None = None

    @property
    def url(self) -> str:
        """The host's address, without a trailing slash."""
        return self._transport.url

    @abstractmethod
    def describe(self) -> ModelCard:
        """Ask the host what it is, and return its model card."""

    def close(self) -> None:
        """Let go of connections."""
        self._transport.close()

    def _known(self) -> K:
        """Return what is known of the host, which is asked where nothing is."""
        if self._learned is None:
            self.describe()
        assert self._learned is not None
        return self._learned

    def _patience(self) -> RetryPolicy:
        """Return the patience to introduce oneself with: until the host has answered once, few tries are all it gets.

        So a wrong address is found out soon.
        """
        policy = self._transport.policy
        if self._transport.answered:
            return policy
        return replace(policy, max_malformed=_FIRST_TRIES, max_unreachable=_FIRST_TRIES)


@contextlib.contextmanager
def told_as(message: str) -> Iterator[None]:
    """Turn a host's failure to introduce itself into one error, `message` with the cause in brackets.

    Raises:
        ProtocolError: what answered does not speak the protocol, or refuses to.
    """
    try:
        yield
    except (ProtocolError, RejectedError, WireError) as error:
        raise ProtocolError(f"{message} ({error})", problem=getattr(error, "problem", None)) from error


def check_version(card: ModelCard, url: str) -> None:
    """Refuse a host of another version of the protocol.

    Raises:
        ProtocolError: it is of another version.
    """
    if card.protocol_version != PROTOCOL_VERSION:
        raise ProtocolError(f"{url} speaks another version of the protocol than {PROTOCOL_VERSION}")


def key_or_fresh(key: str | None) -> str:
    """Return the idempotency key of a call: the one given, or one that no other call has."""
    return key if key is not None else uuid.uuid4().hex
