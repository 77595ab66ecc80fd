"""What an endpoint's calls came to, where no host keeps the account."""

from __future__ import annotations

import threading
from dataclasses import asdict

from blackbox_ti.budget import Cost, cost_of
from blackbox_ti.wire import Charge, UsageReply

__all__ = ["Tally"]


class Tally:
    """The sum of the charges counted so far, from any thread."""

    def __init__(self) -> None:
        self._spent = Cost()
        self._lock = threading.Lock()

    def count(self, charge: Charge) -> None:
        """Add one charge."""
        with self._lock:
            self._spent += cost_of(charge)

    def usage(self, account: str, currency: str) -> UsageReply:
        """Return the sum as the account's usage."""
        return UsageReply(account=account, currency=currency, **asdict(self._spent))
