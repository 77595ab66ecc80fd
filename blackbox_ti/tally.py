"""What an endpoint's calls came to, where no host keeps the account."""

from __future__ import annotations

import threading

from blackbox_ti.wire import Charge, UsageReply

__all__ = ["Tally"]


class Tally:
    """The sum of the charges counted so far, from any thread."""

    def __init__(self) -> None:
        self._forwards = self._queries = self._price_micros = 0
        self._lock = threading.Lock()

    def count(self, charge: Charge) -> None:
        """Add one charge."""
        with self._lock:
            self._forwards += charge.forwards
            self._queries += charge.queries
            self._price_micros += charge.price_micros

    def usage(self, account: str, currency: str) -> UsageReply:
        """Return the sum as the account's usage."""
        with self._lock:
            return UsageReply(
                account=account,
                forwards=self._forwards,
                queries=self._queries,
                price_micros=self._price_micros,
                currency=currency,
            )
