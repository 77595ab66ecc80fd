"""What an endpoint is taken to hold to."""

from __future__ import annotations

from blackbox_ti.endpoint import Guarantees, guarantees_of
from tests.fake_host import FakeHost, fake_endpoint


class Weak:
    """An endpoint that says what its host lacks."""

    guarantees = Guarantees(idempotency=False, exact_cost=False, receipts=False)


class Odd:
    """Something whose `guarantees` is another thing."""

    guarantees = "all of them"


def test_what_an_endpoint_says_of_its_host_is_believed() -> None:
    """One that says nothing, or something else by that name, has what the protocol promises."""
    assert guarantees_of(Weak()) == Weak.guarantees
    assert guarantees_of(object()) == guarantees_of(Odd()) == Guarantees()
    assert guarantees_of(fake_endpoint(FakeHost())) == Guarantees(idempotency=True, exact_cost=True, receipts=True)
