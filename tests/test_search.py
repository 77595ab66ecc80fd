"""Ask and tell, and the laws they keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blackbox_ti.errors import SearchError
from blackbox_ti.search import CmaSearch, SearchSettings

Array = NDArray[np.float64]
SMALL = SearchSettings(dimension=4, popsize=6)


def _search(config: SearchSettings = SMALL, seed: int = 1) -> CmaSearch:
    return CmaSearch(config, np.random.default_rng(seed))


def _run(search: CmaSearch, generations: int, transform: object = None) -> list[Array]:
    asked = []
    for _ in range(generations):
        points = search.ask()
        asked.append(points.copy())
        fitness = ((points - 1.5) ** 2).sum(axis=1)
        search.tell(transform(fitness) if callable(transform) else fitness)
    return asked


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["exp", "cube", "rank", "scale"]), st.integers(0, 50), st.booleans())
def test_monotone_transforms_of_fitness_change_nothing(kind: str, seed: int, mirrored: bool) -> None:
    """The search sees only the order of fitness."""
    transforms = {
        "exp": np.exp,
        "cube": lambda f: f**3,
        "rank": lambda f: np.argsort(np.argsort(f)).astype(float),
        "scale": lambda f: 1e-6 * f - 3,
    }
    config = SearchSettings(dimension=4, popsize=6, mirrored=mirrored)
    plain = _run(_search(config, seed), 5)
    changed = _run(_search(config, seed), 5, transforms[kind])
    assert all(np.array_equal(a, b) for a, b in zip(plain, changed, strict=True))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.booleans(), st.sampled_from(["full", "diagonal"]))
def test_the_order_of_candidates_changes_nothing(seed: int, mirrored: bool, covariance: str) -> None:
    """A generation is a set of (candidate, fitness) pairs: told in another order, it moves the search the same way."""
    config = SearchSettings(dimension=4, popsize=6, mirrored=mirrored, covariance=covariance)  # type: ignore[arg-type]
    plain, shuffled = _search(config, seed), _search(config, seed)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        points, order = plain.ask(), rng.permutation(6)
        assert np.array_equal(points, shuffled.ask())
        shuffled._asked = points[order]
        fitness = ((points - 1.5) ** 2).sum(axis=1)
        plain.tell(fitness)
        shuffled.tell(fitness[order])
    assert np.array_equal(plain.mean, shuffled.mean)
    assert plain.sigma == shuffled.sigma


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_search_finds_the_minimum(covariance: str, mirrored: bool) -> None:
    """On a sphere off the origin the mean comes to the minimum."""
    config = SearchSettings(dimension=4, popsize=8, covariance=covariance, mirrored=mirrored)  # type: ignore[arg-type]
    search = _search(config)
    _run(search, 120)
    assert np.allclose(search.mean, 1.5, atol=1e-2)


def test_the_same_seed_is_the_same_search() -> None:
    """Bit for bit, seed 0 included; another seed is another search."""
    for seed in (0, 7):
        first, second = _run(_search(seed=seed), 6), _run(_search(seed=seed), 6)
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(_run(_search(seed=0), 1)[0], _run(_search(seed=7), 1)[0])


def test_the_global_generator_is_left_alone() -> None:
    """Neither reads nor moves numpy's global generator."""
    np.random.seed(5)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    first = _run(_search(), 3)
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]
    np.random.seed(99)
    assert np.array_equal(_run(_search(), 3)[2], first[2])


@given(st.integers(0, 20), st.floats(0, 1))
def test_the_answer_averages_the_last_means(generations: int, share: float) -> None:
    """It is the mean of the means after the last share of the generations, never of none."""
    search = CmaSearch(SearchSettings(3, 6), np.random.default_rng(1))
    means = [search.mean]
    for _ in range(generations):
        search.tell(np.square(search.ask() - 1).sum(axis=1))
        means.append(search.mean)
    kept = means[1:][-max(1, round(share * generations)) :] if generations else means
    np.testing.assert_allclose(search.averaged(share), np.mean(kept, axis=0))


def test_mirrored_candidates_come_in_pairs() -> None:
    """Each pair lies on both sides of the mean; an odd population leaves one alone."""
    points = _search(SearchSettings(dimension=3, popsize=7, mirrored=True)).ask()
    assert points.shape == (7, 3)
    assert np.allclose(points[0:6:2] + points[1:6:2], 0.0)


def test_points_are_read_only() -> None:
    """A caller cannot move the points it is given."""
    with pytest.raises(ValueError, match="read-only"):
        _search().ask()[0, 0] = 1.0


def test_ask_and_tell_come_in_turns() -> None:
    """Telling before asking, or asking twice, is an error."""
    search = _search()
    with pytest.raises(SearchError, match="ask"):
        search.tell([1.0] * 6)
    search.ask()
    with pytest.raises(SearchError, match="tell"):
        search.ask()


@pytest.mark.parametrize("fitness", [[1.0] * 5, [1.0] * 7, [np.nan] + [1.0] * 5, [np.inf] + [1.0] * 5, []])
def test_a_short_or_broken_generation_is_refused_and_nothing_is_lost(fitness: list[float]) -> None:
    """After a refusal the right numbers are still taken."""
    search = _search()
    points = search.ask()
    with pytest.raises(SearchError):
        search.tell(fitness)
    search.tell(points.sum(axis=1))
    assert search.sigma > 0
