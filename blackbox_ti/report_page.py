"""The report's page, from the facts of a run: pure, and built as a tree whose text and attributes are escaped by it.

Nothing in the page is loaded or run: no script, pictures as `data:` addresses, and a policy that forbids the rest.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement, tostring

from blackbox_ti.budget import Cost
from blackbox_ti.embedding_formats import file_stem
from blackbox_ti.report_chart import Series, line_chart
from blackbox_ti.report_facts import Facts, PictureRow, RunRecord, warnings_of

__all__ = ["render_page"]

_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; background: #fff; max-width: 860px; margin: 2.5rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.9rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #d9dde3; padding-bottom: .25rem; }
p.lead { color: #5a6675; margin: .2rem 0 1.4rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .8rem; margin: 0; }
dt { color: #5a6675; font-size: .85rem; } dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .22rem .8rem .22rem 0; border-bottom: 1px solid #eceff3; vertical-align: top;
  overflow-wrap: anywhere; }
td:first-child { width: 34%; } th { color: #5a6675; font-weight: 500; } td.number, th.number { text-align: right; }
tr.total td { font-weight: 600; } td.member { padding-left: 1.4rem; }
ul.warnings { background: #fff6e5; border-left: 4px solid #e08a00; margin: 1.4rem 0 0; padding: .7rem 1rem .7rem 2rem; }
figure { margin: 0 0 1rem; } figcaption { color: #5a6675; margin-bottom: .3rem; overflow-wrap: anywhere; }
img { width: 132px; height: 132px; object-fit: contain; image-rendering: pixelated; margin: 0 6px 6px 0;
  background: #f4f6f8; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: #5a6675; }
pre { background: #f4f6f8; padding: .7rem 1rem; overflow-x: auto; }
details { margin-top: 1.4rem; } summary { cursor: pointer; }
"""


def render_page(facts: Facts) -> str:
    """Return the page as HTML."""
    html = Element("html", {"lang": "en"})
    head = SubElement(html, "head")
    SubElement(head, "meta", {"charset": "utf-8"})
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY})
    SubElement(head, "meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"})
    _add(head, "title", f"{facts.record.placeholder_token}: a learned word")
    _add(head, "style", _STYLE)
    body = SubElement(html, "body")
    _headline(body, facts)
    _pictures(body, facts.pictures)
    _curves(body, facts.record)
    _spent(body, facts)
    _arrangement(body, facts.record)
    _host(body, facts)
    _use(body, facts)
    text = tostring(html, encoding="unicode", method="html")
    return "<!DOCTYPE html>\n" + text.encode("utf-8", "replace").decode("utf-8") + "\n"


def _add(parent: Element, tag: str, text: str = "", **attributes: str) -> Element:
    element = SubElement(parent, tag, {k.rstrip("_"): v for k, v in attributes.items()})
    element.text = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return element


def _headline(body: Element, facts: Facts) -> None:
    record = facts.record
    name = record.model.get("name", "")
    _add(body, "h1", record.placeholder_token)
    _add(body, "p", f"learned on {name} from {record.start}", class_="lead")
    measure, before, after = record.judged
    figures = {
        f"held-out {measure} before": _number(before),
        f"held-out {measure} after": _number(after),
        "forwards": f"{record.forwards:,}" + (f" of {facts.caps.forwards:,}" if facts.caps.forwards else ""),
        "queries": f"{record.queries:,}",
        "time": f"{record.seconds:,.0f} s",
        "ended": record.stop_reason.replace("_", " "),
    }
    listing = SubElement(body, "dl")
    for term, value in figures.items():
        pair = SubElement(listing, "div")
        _add(pair, "dt", term)
        _add(pair, "dd", value)
    warnings = warnings_of(facts)
    if warnings:
        block = SubElement(body, "ul", {"class": "warnings"})
        for warning in warnings:
            _add(block, "li", warning)


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _pictures(body: Element, rows: Sequence[PictureRow]) -> None:
    if rows:
        _add(body, "h2", "Pictures")
    for row in rows:
        figure = SubElement(body, "figure")
        _add(figure, "figcaption", row.caption)
        for name, png in row.pictures:
            source = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
            SubElement(figure, "img", {"src": source, "alt": name, "title": name})


def _curves(body: Element, record: RunRecord) -> None:
    measure = record.judged[0]
    best, judged = ("loss", "heldout_loss") if measure == "loss" else ("score", "heldout_score")
    series = [
        Series("best of a generation", _points(record, best), "#3b7dd8", 1.2, 0.55),
        Series("best so far, held out", _points(record, judged), "#c23b22", 2.4),
    ]
    chart = line_chart(series, x_label="forwards", y_label=measure)
    if chart is not None:
        _add(body, "h2", f"{measure.capitalize()} against forwards")
        body.append(chart)


def _points(record: RunRecord, name: str) -> list[tuple[float, float]]:
    told = [(float(p.forwards), getattr(p, name)) for p in record.history]
    return [(x, float(y)) for x, y in told if y is not None]


def _spent(body: Element, facts: Facts) -> None:
    currency = facts.card.prices.currency if facts.card else ""
    _add(body, "h2", "What was spent")
    table = _table(body, ["", "calls", "queries", "forwards", currency], numbers_from=1)
    groups = [line for line in facts.lines if line.depth == 0]
    for line in groups:
        _row(table, [line.label, *_costs(line.calls, line.cost)], numbers_from=1)
    total = [*_costs(sum(line.calls for line in groups), facts.total)]
    _row(table, ["total", *total], numbers_from=1).set("class", "total")


def _costs(calls: int, cost: Cost) -> list[str]:
    return [f"{calls:,}", f"{cost.queries:,}", f"{cost.forwards:,}", f"{cost.price_micros / 1e6:.6f}"]


def _table(parent: Element, head: Sequence[str], *, numbers_from: int = 99) -> Element:
    table = SubElement(parent, "table")
    row = SubElement(table, "tr")
    for i, name in enumerate(head):
        _add(row, "th", name, **({"class_": "number"} if i >= numbers_from else {}))
    return table


def _row(table: Element, cells: Iterable[str], *, numbers_from: int = 99) -> Element:
    row = SubElement(table, "tr")
    for i, cell in enumerate(cells):
        _add(row, "td", cell, **({"class_": "number"} if i >= numbers_from else {}))
    return row


def _arrangement(body: Element, record: RunRecord) -> None:
    if record.plan:
        _add(body, "h2", "Plan")
        _values(body, {name: value for name, value in record.plan.items() if value is not None})
    if record.settings:
        block = SubElement(body, "details")
        _add(block, "summary", "Settings")
        _values(block, record.settings)


def _values(parent: Element, values: Mapping[str, Any]) -> None:
    table = SubElement(parent, "table")
    for name, value in values.items():
        _row(table, [name, _told(value)])


def _told(value: Any) -> str:
    if value is None:
        return "chosen by the plan"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(inner)}" for name, inner in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(_told, value)) if isinstance(value, list) else str(value)


def _host(body: Element, facts: Facts) -> None:
    card = facts.card
    if card is None:
        return
    _add(body, "h2", "Host")
    table = SubElement(body, "table")
    mode = card.reply_mode + (f" to {card.reply_digits} digits" if card.reply_digits else "")
    limits = card.limits
    told = {
        "address": facts.endpoint or "",
        "model": card.model,
        "family": f"{card.family}, {card.prediction_type}, {card.resolution} pixels",
        "fingerprint": card.fingerprint,
        "offers": ", ".join([*card.objectives, *(["vocabulary"] if card.vocabulary else [])]),
        "losses are": mode,
        "in a request": f"up to {limits.max_candidates} candidates, {limits.max_samples} samples",
        "receipts signed by": card.receipt_public_key or "nobody",
    }
    for encoder in card.encoders:
        norms = ", ".join(f"{norm:.3g}" for norm in facts.norms.get(encoder.name, ()))
        usual = (
            f"{encoder.dim} numbers a vector; words there have norm {encoder.norm_mean:.3g} ± {encoder.norm_std:.2g}"
        )
        told[f"encoder {encoder.name}"] = usual + (f", this one {norms}" if norms else "")
    for name, value in told.items():
        _row(table, [name, value])


def _use(body: Element, facts: Facts) -> None:
    word = facts.record.placeholder_token
    stem = file_stem(word)
    parts = [e.name for e in facts.card.encoders] if facts.card else []
    _add(body, "h2", "Using the word")
    if len(parts) > 1:
        lines = [
            f'pipe.load_textual_inversion("{file_stem(p)}", text_encoder=pipe.{p}, '
            f"tokenizer=pipe.{p.replace('text_encoder', 'tokenizer')})"
            for p in parts
        ]
    else:
        lines = ['pipe.load_textual_inversion("learned_embeds.safetensors")']
    _add(body, "pre", "\n".join([*lines, f"pipe({f'a photo of {word}'!r})"]))
    _add(body, "p", f"In ComfyUI and A1111: put {stem}.safetensors into the folder of embeddings, and write")
    _add(body, "pre", f"a photo of embedding:{stem}    (ComfyUI)\na photo of {stem}    (A1111)")
