"""Turns between accounts, as laws."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from server_stub.fair_queue import FairQueue

_ACCOUNTS = st.sampled_from("abc")
_ITEMS = st.lists(st.tuples(_ACCOUNTS, st.integers(1, 20)), max_size=40)


def _serve_one(queue: FairQueue[tuple[int, int]]) -> tuple[str, tuple[int, int]]:
    account = queue.next_account()
    assert account is not None
    queue.charge(account, queue.head(account)[1])
    return account, queue.pop(account)


@given(_ITEMS)
def test_everything_comes_out_once_and_in_each_accounts_order(items: list[tuple[str, int]]) -> None:
    """Nothing is lost or doubled, and an account's own items keep their order."""
    queue: FairQueue[tuple[int, int]] = FairQueue()
    for number, (account, cost) in enumerate(items):
        queue.push(account, (number, cost))
    assert len(queue) == len(items)
    served = [_serve_one(queue) for _ in items]
    assert queue.next_account() is None
    for account in "abc":
        numbers = [number for owner, (number, _) in served if owner == account]
        assert numbers == [number for number, (owner, _) in enumerate(items) if owner == account]


@given(_ITEMS)
def test_accounts_with_work_waiting_are_served_alike(items: list[tuple[str, int]]) -> None:
    """While accounts wait, what they were served differs by no more than the dearest charge of each."""
    queue: FairQueue[tuple[int, int]] = FairQueue()
    for number, (account, cost) in enumerate(items):
        queue.push(account, (number, cost))
    waiting = {account for account, _ in items}
    served: Counter[str] = Counter()
    while len(waiting & _accounts(queue)) == len(waiting) and waiting:
        account, (_, cost) = _serve_one(queue)
        served[account] += cost
        assert all(abs(served[a] - served[b]) <= 40 for a in waiting for b in waiting)


def _accounts(queue: FairQueue[tuple[int, int]]) -> set[str]:
    found: set[str] = set()
    while (account := queue.next_account(found)) is not None:
        found.add(account)
    return found


def test_an_idle_account_earns_no_credit() -> None:
    """Whoever was away while another was served much comes back level with it, not ahead."""
    queue: FairQueue[tuple[int, int]] = FairQueue()
    for number in range(10):
        queue.push("busy", (number, 5))
        _serve_one(queue)
    for number in range(4):
        queue.push("busy", (number, 5))
        queue.push("back", (number, 5))
    assert Counter(_serve_one(queue)[0] for _ in range(4)) == {"busy": 2, "back": 2}


def test_accounts_may_be_passed_over() -> None:
    """The next account besides some is the one whose turn it would be without them."""
    queue: FairQueue[tuple[int, int]] = FairQueue()
    queue.push("a", (0, 1))
    queue.push("b", (1, 1))
    assert queue.next_account() == "a"
    assert queue.next_account({"a"}) == "b"
    assert queue.next_account({"a", "b"}) is None
