"""Whose turn it is: start-time fair queueing (Goyal, Vin, Cheng 1996) of accounts, by the work done for each."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import Generic, TypeVar

__all__ = ["FairQueue"]

ItemT = TypeVar("ItemT")


class FairQueue(Generic[ItemT]):
    """Items by account, first in first out within one; the account served least so far is next.

    An account that comes back after a pause is level with those being served: idling earns no credit. Any two accounts
    that both have work waiting are served alike, to within the dearest single charge of each.
    """

    def __init__(self) -> None:
        self._items: dict[str, deque[ItemT]] = {}
        self._served: dict[str, float] = {}
        self._level = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def __iter__(self) -> Iterator[ItemT]:
        return (item for items in self._items.values() for item in items)

    def push(self, account: str, item: ItemT) -> None:
        """Queue `item` behind the account's others."""
        if account not in self._items:
            self._items[account] = deque()
            self._served[account] = max(self._served.get(account, 0.0), self._level)
        self._items[account].append(item)

    def next_account(self, besides: Collection[str] = ()) -> str | None:
        """Return the account whose turn it is among those with items and not in `besides`; ties go to the older."""
        waiting = [account for account in self._items if account not in besides]
        return min(waiting, key=self._served.__getitem__, default=None)

    def head(self, account: str) -> ItemT:
        """Return the account's first item."""
        return self._items[account][0]

    def pop(self, account: str) -> ItemT:
        """Take the account's first item out."""
        item = self._items[account].popleft()
        if not self._items[account]:
            del self._items[account]
            self._forget_idle()
        return item

    def charge(self, account: str, cost: float) -> None:
        """Note that work of `cost` is being done for an account with items."""
        self._level = max(self._level, self._served[account])
        self._served[account] += cost

    def _forget_idle(self) -> None:
        """Let go of accounts that would come back at the common level anyway."""
        kept = {a: served for a, served in self._served.items() if a in self._items or served > self._level}
        self._served = kept
