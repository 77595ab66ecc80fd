"""Usage and receipts as pages."""

from __future__ import annotations

from blackbox_ti.wire import ReceiptsReply, UsageReply
from tests.server_stub.served import loss_body, served


def test_receipts_come_in_pages_that_follow_each_other() -> None:
    """Whatever the limit, going on from `next_after` gives every receipt once and in order; beyond the end is empty."""
    with served(max_receipts_page=2) as app:
        concept = app.concept()
        for _ in range(5):
            app.charged("/v1/loss", loss_body(concept))
        after: int | None = 0
        sequences: list[int] = []
        while after is not None:
            page = app.client.get("/v1/receipts", params={"after": after, "limit": 1000})
            reply = ReceiptsReply.model_validate_json(page.content)
            assert len(reply.receipts) <= 2
            sequences += [receipt.sequence for receipt in reply.receipts]
            after = reply.next_after
        assert sequences == [1, 2, 3, 4, 5]
        beyond = app.client.get("/v1/receipts", params={"after": 2**62}).json()
        assert (beyond["receipts"], beyond["next_after"]) == ([], None)


def test_usage_tells_the_head_of_the_receipts_in_body_and_header() -> None:
    """Before the first charge the chain has no head, and the header says so with zeros."""
    with served() as app:
        fresh = app.client.get("/v1/usage")
        assert (fresh.json()["head"], fresh.headers["receipt-head"]) == (None, "0" * 64)
        app.charged("/v1/loss", loss_body(app.concept()))
        told = app.client.get("/v1/usage")
        usage = UsageReply.model_validate_json(told.content)
        assert usage.head == told.headers["receipt-head"] != "0" * 64
        assert (usage.receipts, usage.max_forwards, usage.max_queries, usage.max_price_micros) == (1, None, None, None)
