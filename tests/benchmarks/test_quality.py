"""The benchmark's own arithmetic: what it compares, what it keeps, what it adds up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blackbox_ti.inversion import invert
from blackbox_ti.objective import prompts_for
from blackbox_ti.progress import Progress
from blackbox_ti.settings import InversionSettings
from tests.benchmarks.ablation import ARMS, table
from tests.benchmarks.priced_gradients import descend, gradient_axes, word_axes
from tests.benchmarks.quality.gradient import train
from tests.benchmarks.quality.matrix import Cell, Job, cells_of, results, run_cells
from tests.benchmarks.quality.measures import heldout_bank
from tests.benchmarks.quality.methods import METHODS, REPLY_MODES, arm
from tests.benchmarks.quality.plots import curves
from tests.benchmarks.quality.subjects import DEVELOPMENT, MATRIX, SUBSET
from tests.benchmarks.quality.tables import failures_table, forwards_to, gap_closed, gaps, main_table, speed_table
from tests.benchmarks.quality.watched import ReplyMode, Watched
from tests.benchmarks.quality.workbench import WORD, Workbench
from tests.benchmarks.quality.zeroth_order import SubspaceAdam, directional
from tests.server_stub.fake_engine import FakeEngine


def test_what_was_tuned_on_is_not_measured() -> None:
    """Twelve subjects and four styles, none of them among those that anything was tuned on."""
    assert sum(s.style is None for s in MATRIX) == 12
    assert sum(s.style is not None for s in MATRIX) == 4
    names = [s.name for s in (*MATRIX, *DEVELOPMENT)]
    assert len(set(names)) == len(names)
    assert set(SUBSET) <= {s.name for s in MATRIX}
    assert all(len(s.references()) == 5 and len(s.edits) == 4 for s in MATRIX)


def _result(title: str, subject: str, seed: int, loss: float, curve: list[list[float]] | None = None) -> dict[str, Any]:
    method, _, mark = title.partition(" @ ")
    return {
        "title": title, "method": method, "mark": mark, "subject": subject, "kind": "named", "seed": seed,
        "heldout_loss": loss, "forwards": 5000, "seconds": 1.0, "curve": curve or [],
    }  # fmt: skip


def _results() -> list[dict[str, Any]]:
    found = []
    for seed in (1, 2):
        for subject, shift in (("a", 0.0), ("b", 0.1)):
            found += [
                _result("word", subject, seed, 0.30 + shift),
                _result("start", subject, seed, 0.28 + shift) | {"forwards": 400},
                _result("gradient @ 5,000", subject, seed, 0.20 + shift, [[2500, 0.25 + shift], [5000, 0.20 + shift]]),
                _result("ours @ 5,000", subject, seed, 0.21 + shift, [[1000, 0.24 + shift], [4000, 0.21 + shift]]),
                _result(
                    "paper, pca @ 5,000", subject, seed, 0.24 + shift, [[2000, 0.26 + shift], [5000, 0.24 + shift]]
                ),
            ]
    return found


def test_the_gap_is_that_of_the_gradient_over_the_start() -> None:
    """Of 10 points from the word ours closes 9, of 8 from the start 7."""
    assert np.isclose(gap_closed(gaps(_results(), "ours @ 5,000", "word"))[0], 0.9)
    assert np.isclose(gap_closed(gaps(_results(), "ours @ 5,000", "start"))[0], 7 / 8)
    assert np.isclose(gap_closed(gaps(_results(), "start", "word"))[0], 0.2)
    worst = [*_results(), _result("ours @ 5,000", "a", 1, 0.29)]
    assert np.isclose(gap_closed(gaps(worst, "ours @ 5,000", "word"))[2], 0.1)
    assert "90 ± 0 % (worst 90 %)" in main_table(_results())


def test_speed_is_the_forwards_to_the_rivals_last_loss() -> None:
    """Where ours was as good after 1,000 as the paper after 5,000, it is five times faster."""
    assert forwards_to(_results()[3], 0.24) == 1000
    assert forwards_to(_results()[3], 0.1) is None
    rows = speed_table(_results()).splitlines()
    assert any("paper" in row and "| 4 of 4 | 5.0 |" in row for row in rows)
    assert any("gradient" in row and "| 0 of 4 |  |" in row for row in rows)


def test_a_run_that_gains_nothing_over_the_plain_word_is_counted() -> None:
    """The worst is named."""
    found = [r | {"clip_i": 0.4 if r["title"] == "word" else 0.6} for r in _results()]
    found.append(next(r for r in found if r["title"] == "ours @ 5,000") | {"seed": 3, "clip_i": 0.3})
    found.append(next(r for r in found if r["title"] == "word") | {"seed": 3})
    rows = failures_table(found).splitlines()
    assert "| ours @ 5,000 | -0.100 (a, seed 3) | 1 of 5 |" in rows
    assert any(row.startswith("| start | +0.200") and row.endswith("| 0 of 4 |") for row in rows)


def test_a_curve_is_at_its_start_until_its_first_answer() -> None:
    """It begins where ours has paid for the start, which rivals are given, and ends where the run ended."""
    lines = curves(_results(), np.array([300.0, 500.0, 1500.0, 4500.0, 9000.0]))
    assert np.allclose(lines["ours @ 5,000"], [np.nan, 0.33, 0.29, 0.26, np.nan], equal_nan=True)
    assert np.allclose(lines["gradient @ 5,000"][:2], [0.33, 0.33])


def test_curves_are_on_the_level_of_the_whole_bank() -> None:
    """They are measured on a part of it, and the gradient's last word, measured on both, tells the difference."""
    results = [
        _result("start", "a", 1, 0.33),
        _result("gradient @ 5,000", "a", 1, 0.20, [[1000.0, 0.27], [5000.0, 0.25]]),
        _result("paper, pca @ 5,000", "a", 1, 0.31, [[1000.0, 0.37], [4000.0, 0.36]]),
    ]
    lines = curves(results, np.array([500.0, 1500.0, 5000.0]))
    assert np.allclose(lines["gradient @ 5,000"], [0.33, 0.22, 0.20])
    assert np.allclose(lines["paper, pca @ 5,000"], [np.nan, 0.32, 0.31], equal_nan=True)


def _cells() -> list[Cell]:
    return cells_of([METHODS["oracle words"], METHODS["word"], METHODS["ours"]], [5000, 20000], MATRIX, [1, 2])


def test_a_matrix_holds_each_cell_once() -> None:
    """What does not search has one mark; styles have no words to be called by; files tell them all apart."""
    cells = _cells()
    assert len(cells) == 2 * (12 + 16 + 2 * 16)
    assert len({cell.file(pictures=True) for cell in cells}) == len(cells)
    assert not {cell.file(pictures=True) for cell in cells} & {cell.file(pictures=False) for cell in cells}
    sigma = Cell(arm("ours", sigma=1.5), 5000, MATRIX[0], 1)
    assert sigma.file(pictures=True) != Cell(METHODS["ours"], 5000, MATRIX[0], 1).file(pictures=True)


def test_a_matrix_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """A cell whose work failed leaves nothing; one that is done is not done again."""
    job, cells, done = Job(tmp_path), _cells()[:5], list[str]()

    def work(cell: Cell) -> dict[str, Any]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(cell.title + cell.subject.name)
        return {"title": cell.title, "loss": len(done)}

    with pytest.raises(KeyboardInterrupt):
        list(run_cells(job, cells, work))
    assert len(results(job, cells)) == len(list(tmp_path.iterdir())) == 3
    done.clear()
    assert [cell.subject.name for cell, _ in run_cells(job, cells, work)] == [c.subject.name for c in cells[3:]]
    assert len(results(job, cells)) == 5
    assert list(run_cells(job, cells, work)) == []


@pytest.mark.parametrize("changed", [{}, {"answer": "luckiest"}, {"answer": "luckiest", "common_noise": False}])
def test_the_trail_ends_in_the_answer(changed: dict[str, Any]) -> None:
    """What the curve follows is what the search would have answered there and then."""
    endpoint = Watched(FakeEngine())
    settings = InversionSettings(max_forwards=900, dimension=3, subspace="random", **changed)
    pictures = [Image.new("RGB", (16, 16), (200, 30, 30))]
    result = invert(endpoint, pictures, settings, on_progress=endpoint.hear)
    forwards, word = endpoint.trail()[-1]
    assert np.array_equal(word["text"], result.embedding["text"])
    assert 0 < forwards <= result.forwards
    assert [f for f, _ in endpoint.trail()] == sorted({f for f, _ in endpoint.trail()})


@pytest.mark.parametrize("mode", [ReplyMode("rounded", 2), ReplyMode("rank")])
def test_a_host_that_tells_less_is_searched_all_the_same(mode: ReplyMode) -> None:
    """The search sees only what the mode lets out, and the trail still ends in its answer."""
    endpoint, seen = Watched(FakeEngine(), mode), list[float]()

    def hear(progress: Progress) -> None:
        endpoint.hear(progress)
        seen.append(progress.loss or 0.0)

    settings = InversionSettings(max_forwards=900, dimension=3, subspace="random")
    pictures = [Image.new("RGB", (16, 16), (200, 30, 30))]
    result = invert(endpoint, pictures, settings, on_progress=hear)
    assert result.card.reply_mode == mode.mode
    assert result.plan.ranked == (mode.mode == "rank")
    assert (sum(seen) == 0) == (mode.mode == "rank")
    assert np.array_equal(endpoint.trail()[-1][1]["text"], result.embedding["text"])
    cells = [Cell(method, 5000, MATRIX[0], 1) for method in REPLY_MODES.values()]
    assert len({cell.file(pictures=True) for cell in cells}) == len(cells)


def test_zeroth_order_steps_go_down() -> None:
    """On a bowl the estimate points uphill on average, and Adam with it comes near the bottom."""
    rng, bottom = np.random.default_rng(0), np.linspace(-1, 1, 12)
    point, optimizer = np.zeros(12), SubspaceAdam(0.02, tau=32)
    for _ in range(600):
        directions = rng.standard_normal((2, 12))
        points = np.concatenate([point[None], point + 1e-3 * directions])
        losses = ((points - bottom) ** 2).sum(axis=1)
        point = optimizer.step(point, directional(losses, directions, 1e-3))
    assert ((point - bottom) ** 2).sum() < 0.1 * (bottom**2).sum()


def test_the_subspace_leaves_out_where_the_run_did_not_go() -> None:
    """After a history along the diagonal, a gradient across it moves nothing across."""
    kept, free = SubspaceAdam(0.1, tau=8, nu=0.01), SubspaceAdam(0.1, tau=9, nu=0.01)
    across = []
    for optimizer in (kept, free):
        point = np.zeros(2)
        for _ in range(8):
            point = optimizer.step(point, np.array([1.0, 1.0]))
        moved = optimizer.step(point, np.array([1.0, -1.0])) - point
        across.append(abs(moved[0] - moved[1]))
    assert across[0] < 1e-9
    assert across[1] > 1e-3


def test_the_gradients_loss_is_the_engines() -> None:
    """Both score one bank alike, and a few steps change the word where the loss has a slope."""
    bench, subject = Workbench(), DEVELOPMENT[0]
    latents, bank = bench.latents(subject.references()), heldout_bank(subject)[:6]
    words = np.random.default_rng(0).normal(0, 0.05, (2, 1, 256)).astype(np.float32)
    prompts = prompts_for("object", WORD)
    plain = bench.losses(torch.from_numpy(words), latents, prompts, bank)
    assert np.allclose(plain.numpy(), bench.scored({bench.encoder: words}, latents, prompts, bank), atol=1e-5)
    start = {bench.encoder: words[0]}
    trail = list(train(bench, subject, start, samples=16, rate=1e-2, seed=0, every=8))
    assert [samples for samples, _ in trail] == [8, 16]
    assert not np.allclose(trail[0][1][bench.encoder], trail[1][1][bench.encoder])


def test_a_priced_gradient_descends_in_its_axes_alone() -> None:
    """Exact gradients lower the loss from a plain word without leaving the axes they were asked in."""
    bench, subject = Workbench(), DEVELOPMENT[0]
    _, table = bench.engine.vocabulary(bench.encoder)
    start = {bench.encoder: np.array(table[:1], np.float32)}
    axes = word_axes(bench, subject, start, 3)
    end = descend(bench, subject, start, axes, 60, 0.3, 0)
    moved = (end[bench.encoder] - start[bench.encoder])[0].astype(np.float64)
    along = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    assert np.linalg.norm(moved) > 0.05
    assert np.allclose(along.T @ (along @ moved), moved, atol=1e-4)
    latents, prompts = bench.latents(subject.references()), prompts_for("object", WORD)
    both = {bench.encoder: np.stack([start[bench.encoder], end[bench.encoder]])}
    before, after = bench.scored(both, latents, prompts, heldout_bank(subject)[:64]).mean(axis=1)
    assert after < before


def test_axes_of_gradients_are_independent_directions() -> None:
    """They are as many as asked for, none of them in the span of the others."""
    bench, subject = Workbench(), DEVELOPMENT[0]
    _, table = bench.engine.vocabulary(bench.encoder)
    axes = gradient_axes(bench, subject, {bench.encoder: np.array(table[:1], np.float32)}, 4)
    assert axes.shape == (4, table.shape[1])
    assert np.linalg.matrix_rank(axes) == 4


def test_the_ablation_pairs_every_setting_with_the_defaults() -> None:
    """Its last column is the mean difference; every arm is a setting that there is."""
    for overrides in ARMS.values():
        InversionSettings(**overrides)
    found = [
        *_results(),
        *(_result("defaults @ 5,000", s, seed, 0.25) for s in "ab" for seed in (1, 2)),
        *(_result("sigma 1 @ 5,000", s, seed, 0.26) for s in "ab" for seed in (1, 2)),
    ]
    rows = table(found, ["defaults", "sigma 1"]).splitlines()
    assert rows[2].endswith("| 0.2500 | +0.0000 ± 0.0000 |")
    assert rows[3].endswith("| 0.2600 | +0.0100 ± 0.0000 |")
