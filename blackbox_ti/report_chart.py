"""A line chart as an inline SVG element: pure, and without anything a browser would load or run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element, SubElement

__all__ = ["Series", "line_chart", "nice_ticks"]

_WIDTH, _HEIGHT = 760, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 14, 34, 44
_PADDING: Final = 0.06
_LEGEND_STEP: Final = 210


@dataclass(frozen=True)
class Series:
    """A named line through points (x, y), drawn in an SVG colour; the last one given lies on top."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    width: float = 2.0
    opacity: float = 1.0


@dataclass(frozen=True)
class _Axis:
    """A linear map of [low, high] to [start, end] in the picture."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` multiples of 1, 2 or 5 times a power of ten, within [low, high], `low` below `high`."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def line_chart(series: Sequence[Series], *, x_label: str, y_label: str) -> Element | None:
    """Return an `svg` element, or None where no series has two points."""
    drawn = [s for s in series if len(s.points) > 1]
    if not drawn:
        return None
    x = _axis([p[0] for s in drawn for p in s.points], _LEFT, _WIDTH - _RIGHT, padded=False)
    y = _axis([p[1] for s in drawn for p in s.points], _HEIGHT - _BOTTOM, _TOP, padded=True)
    svg = Element("svg", {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "role": "img", "aria-label": f"{y_label}, {x_label}"})
    _grid(svg, x, y)
    for s in drawn:
        path = "M" + " L".join(f"{x(a):.1f},{y(b):.1f}" for a, b in s.points)
        style = {"stroke": s.colour, "stroke-width": f"{s.width:g}", "stroke-opacity": f"{s.opacity:g}"}
        SubElement(svg, "path", {"d": path, "fill": "none", "stroke-linejoin": "round", **style})
    _legend(svg, drawn)
    _text(svg, (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_label, "middle")
    turned = _text(svg, 14, (_TOP + _HEIGHT - _BOTTOM) / 2, y_label, "middle")
    turned.set("transform", f"rotate(-90 14 {(_TOP + _HEIGHT - _BOTTOM) / 2:.1f})")
    return svg


def _axis(values: Sequence[float], start: float, end: float, *, padded: bool) -> _Axis:
    low, high = min(values), max(values)
    least = max(abs(low), abs(high), 1e-6) * 1e-3
    spare = max((high - low) * (_PADDING if padded else 0), (least - (high - low)) / 2, 0)
    return _Axis(low - spare, high + spare, start, end)


def _grid(svg: Element, x: _Axis, y: _Axis) -> None:
    for tick in nice_ticks(y.low, y.high):
        _line(svg, _LEFT, y(tick), _WIDTH - _RIGHT, y(tick))
        _text(svg, _LEFT - 8, y(tick) + 4, f"{tick:.4g}", "end")
    for tick in nice_ticks(x.low, x.high, 6):
        _line(svg, x(tick), _TOP, x(tick), _HEIGHT - _BOTTOM)
        _text(svg, x(tick), _HEIGHT - _BOTTOM + 18, f"{tick:,.10g}", "middle")


def _legend(svg: Element, series: Sequence[Series]) -> None:
    for i, s in enumerate(series):
        left = _LEFT + i * _LEGEND_STEP
        mark = _line(svg, left, 14, left + 22, 14)
        mark.attrib.update({"stroke": s.colour, "stroke-width": f"{s.width:g}", "stroke-opacity": f"{s.opacity:g}"})
        _text(svg, left + 28, 18, s.name, "start")


def _line(svg: Element, x1: float, y1: float, x2: float, y2: float) -> Element:
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return SubElement(svg, "line", {**ends, "stroke": "#d9dde3", "stroke-width": "1"})


def _text(svg: Element, x: float, y: float, text: str, anchor: str) -> Element:
    element = SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor})
    element.text = text
    return element
