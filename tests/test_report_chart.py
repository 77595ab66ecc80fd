"""The report's line charts: where ticks and points lie."""

from __future__ import annotations

import itertools
import math
import re

from hypothesis import assume, given
from hypothesis import strategies as st

from blackbox_ti.report_chart import Series, line_chart, nice_ticks

VALUES = st.floats(-1e6, 1e6)


@given(VALUES, VALUES)
def test_ticks_are_few_even_and_inside(low: float, high: float) -> None:
    """Two to eleven ticks, each within the axis, all one step apart, the step 1, 2 or 5 times a power of ten."""
    assume(high - low > 1e-6 * max(abs(low), abs(high), 1e-3))
    ticks = nice_ticks(low, high)
    spare = 1e-6 * (high - low)
    assert 2 <= len(ticks) <= 11
    assert all(low - spare <= t <= high + spare for t in ticks)
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in itertools.pairwise(ticks)}
    assert steps == {1.0}
    step = ticks[1] - ticks[0]
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(mantissa - m) for m in (1, 2, 5)) < 1e-3


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=30))
def test_every_point_lies_in_the_frame_and_better_is_lower(points: list[tuple[float, float]]) -> None:
    """Points keep their order on both axes, and none falls out of the picture."""
    svg = line_chart([Series("a", points, "red")], x_label="x", y_label="y")
    assert svg is not None
    path = svg.find("path")
    assert path is not None
    drawn = [(float(a), float(b)) for a, b in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path.attrib["d"])]
    assert len(drawn) == len(points)
    assert all(72 <= x <= 746 and 34 <= y <= 276 for x, y in drawn)
    for (x, y), (px, py) in zip(points, drawn, strict=True):
        for (u, v), (pu, pv) in zip(points, drawn, strict=True):
            assert (x <= u) <= (px <= pu + 1e-9)
            assert (y <= v) <= (py >= pv - 1e-9)


def test_a_flat_line_has_room() -> None:
    """Equal values make a line in the middle, not a division by nothing."""
    svg = line_chart([Series("a", [(0, 0.25), (10, 0.25)], "red")], x_label="x", y_label="y")
    assert svg is not None
    path = svg.find("path")
    assert path is not None
    assert {y for _, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path.attrib["d"])} == {"155.0"}


def test_no_chart_without_a_line() -> None:
    """One point is no line; a series without two is left out beside one that has them."""
    assert line_chart([Series("a", [(0, 1)], "red")], x_label="x", y_label="y") is None
    svg = line_chart([Series("a", [], "red"), Series("b", [(0, 1), (1, 2)], "blue")], x_label="x", y_label="y")
    assert svg is not None
    assert [p.attrib["stroke"] for p in svg.iter("path")] == ["blue"]
