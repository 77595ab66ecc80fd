"""The report's page from facts: whole, self-contained, and no way in for a stranger's words."""

from __future__ import annotations

import base64
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_ti.budget import Caps, Cost
from blackbox_ti.report_facts import Facts, PictureRow
from blackbox_ti.report_page import render_page
from tests.reports import CARD, HOSTILE, Page, facts, record


def page_of(told: Facts) -> Page:
    """Return the page as a browser reads it."""
    return Page(render_page(told))


def titles(told: Facts) -> list[str]:
    """Return the headings of the page's parts, in order."""
    return re.findall("<h2>([^<]*)</h2>", render_page(told))


def test_the_page_has_a_part_for_each_thing_there_is_to_tell() -> None:
    """Pictures, curves, costs, plan, host and use; what is not known has no part."""
    assert titles(facts()) == [
        "Pictures", "Loss against forwards", "What was spent", "Plan", "Host", "Using the word",
    ]  # fmt: skip
    assert titles(facts(record(plan={}, history=[]), card=None, pictures=[])) == ["What was spent", "Using the word"]


def test_figures_are_told_as_they_are() -> None:
    """Losses, costs and caps, and a figure that was not measured is said not to be."""
    text = page_of(facts()).text
    for told in ("0.5000", "0.2500", "1,200 of 5,000", "61 s", "1.000005", "1,100", "tiny", "the word dog"):
        assert told in text, told
    text = page_of(facts(record(heldout_loss_after=None, stop_reason="budget_spent"), caps=Caps())).text
    assert "not measured" in text
    assert "of 5,000" not in text
    assert "budget spent" in text


def test_groups_are_summed_and_members_are_not_counted_twice() -> None:
    """A group stands for its members; the last row is the whole."""
    rows = re.findall("<tr[^>]*>(.*?)</tr>", render_page(facts(total=Cost(1200, 90, 1_000_005))))
    (total,) = (row for row in rows if "<td>total</td>" in row)
    assert re.findall('class="number">([^<]*)<', total) == ["5", "90", "1,200", "1.000005"]
    assert not any("search/0" in row for row in rows)


def test_what_the_settings_leave_to_the_plan_is_said_so() -> None:
    """None, truth values, lists and records are told in words; what the plan has not is left out."""
    chosen = {
        "sigma": None,
        "whiten": True,
        "mirrored": False,
        "dims": [1, 2],
        "canary": {"asks": None, "samples": 2},
    }
    text = page_of(facts(record(settings=chosen))).text
    for told in ("chosen by the plan", "yes", "no", "1, 2", "asks chosen by the plan, samples 2"):
        assert told in text, told
    assert "<td>pictures</td>" not in render_page(facts())


def test_the_curves_leave_out_what_was_not_measured() -> None:
    """A generation that was not judged has no point on the judged curve; a run on pictures shows scores."""
    history = [{"forwards": n, "loss": 1.0 / n, "heldout_loss": 1.0 if n % 2 else None} for n in range(1, 6)]
    paths = [a["d"] or "" for tag, a in page_of(facts(record(history=history))).elements if tag == "path"]
    assert [path.count(",") for path in paths] == [5, 3]
    scored = record(
        heldout_score_before=0.1, heldout_score_after=0.2, history=[{"forwards": n, "score": n / 9} for n in (1, 2)]
    )
    assert "Score against forwards" in titles(facts(scored))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.text(max_size=9), st.binary(max_size=40)), max_size=3))
def test_pictures_are_in_the_page_itself(pictures: list[tuple[str, bytes]]) -> None:
    """Each as its own bytes, under its own name."""
    shown = [a for tag, a in page_of(facts(pictures=[PictureRow("c", pictures)])).elements if tag == "img"]
    files = [(a["src"] or "").removeprefix("data:image/png;base64,") for a in shown]
    assert [base64.b64decode(file) for file in files] == [file for _, file in pictures]


@settings(max_examples=40)
@given(st.text(min_size=1, max_size=30) | st.just(HOSTILE))
def test_a_strangers_words_stay_text(word: str) -> None:
    """Whatever a host, a file or a person calls things, the page has the same elements and attributes."""
    card = CARD.model_copy(update={"model": word, "family": word, "prediction_type": word})
    told: dict[str, Any] = {"start": word, "stop_reason": word, "model": {"name": word}, "settings": {word: [word]}}
    strange = page_of(
        facts(
            record(placeholder_token=word, plan={word: word}, **told),
            card=card,
            endpoint=word,
            pictures=[PictureRow(word, [(word, b"x")])],
        )
    )
    plain = page_of(facts(record(plan={"a": "b"}, settings={"a": ["b"]})))
    assert [(tag, set(a)) for tag, a in strange.elements] == [(tag, set(a)) for tag, a in plain.elements]


@settings(max_examples=40)
@given(st.characters(categories=["Cc", "Cs"], exclude_characters="\n\t\r"))
def test_characters_that_are_no_text_are_replaced(character: str) -> None:
    """Control characters and halves of characters end in no terminal, and the page is UTF-8 whatever it tells."""
    html = render_page(facts(record(start=f"a{character}b")))
    assert f"a{character}b" not in html
    assert html.encode("utf-8")


def test_nothing_is_loaded_or_run() -> None:
    """No element fetches or runs anything, and a policy forbids it to what might slip in."""
    page = page_of(facts(record(stop_reason="interrupted")))
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in {"href", "srcset", "action"}}
    policies = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_each_encoder_is_loaded_by_its_own_line() -> None:
    """A model of several encoders has a file each; a model of one has one file."""
    assert render_page(facts()).count("load_textual_inversion") == 1
    one = CARD.encoders[0]
    card = CARD.model_copy(
        update={"encoders": [one.model_copy(update={"name": n}) for n in ("text_encoder", "text_encoder_2")]}
    )
    text = page_of(facts(card=card, norms={"text_encoder": [0.5, 0.25]})).text
    assert 'pipe.load_textual_inversion("text_encoder_2", text_encoder=pipe.text_encoder_2, ' in text
    assert "tokenizer=pipe.tokenizer_2)" in text
    assert "this one 0.5, 0.25" in text
