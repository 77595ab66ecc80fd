"""Reports for tests: the facts of a run that never was, and a page as a browser reads it."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from blackbox_ti.audit_report import Line
from blackbox_ti.budget import Caps, Cost
from blackbox_ti.report_facts import Facts, PictureRow, RunRecord
from tests.fake_host import FakeHost

__all__ = ["CARD", "HOSTILE", "Page", "facts", "record"]

CARD = FakeHost().card
HOSTILE = "<img/src=x/onerror=alert(1)>\"'&"


def record(**changes: Any) -> RunRecord:
    """Return the record of a run that went well, changed."""
    told: dict[str, Any] = {
        "placeholder_token": "<sks>",
        "start": "the word dog",
        "stop_reason": "finished",
        "heldout_loss_before": 0.5,
        "heldout_loss_after": 0.25,
        "forwards": 1200,
        "queries": 90,
        "seconds": 61.4,
        "settings": {"seed": 3, "sigma": None, "whiten": True},
        "plan": {"dimension": 4, "pictures": None, "canary": {"samples": 2}},
        "model": {"name": "tiny"},
        "history": [{"forwards": 400 * n, "loss": 1 / n, "heldout_loss": 2 / n} for n in (1, 2, 3)],
    }
    return RunRecord.model_validate(told | changes)


def facts(told: RunRecord | None = None, **changes: Any) -> Facts:
    """Return the facts of a run whose book verifies, changed."""
    given: dict[str, Any] = {
        "record": told or record(),
        "endpoint": "https://host.example",
        "card": CARD,
        "caps": Caps(forwards=5000),
        "lines": [
            Line("search", 0, 3, Cost(1100, 80, 5)),
            Line("search/0", 1, 3, Cost(1100, 80, 5)),
            Line("heldout", 0, 2, Cost(100, 10, 1_000_000)),
        ],
        "total": Cost(1200, 90, 1_000_005),
        "open_calls": 0,
        "faults": (),
        "norms": {"text": [0.25]},
        "pictures": [PictureRow("references", [("a.png", b"file")])],
    }
    return Facts(**given | changes)


class Page(HTMLParser):
    """A page as a browser reads it: its elements with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data
