"""The affine map, and its scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import InputError
from blackbox_ti.subspace import Embedding, Subspace, full_subspace, pca_subspace, random_subspace
from blackbox_ti.wire import Encoder

ENCODERS = [
    Encoder(name="a", dim=6, norm_mean=0.4, norm_std=0.05),
    Encoder(name="b", dim=4, norm_mean=2.0, norm_std=0.1),
]


def _origin(vectors: int = 2) -> Embedding:
    rng = np.random.default_rng(3)
    return {e.name: rng.normal(size=(vectors, e.dim)).astype(np.float32) for e in ENCODERS}


def _vocabularies() -> dict[str, Vocabulary]:
    rng = np.random.default_rng(4)
    return {
        e.name: Vocabulary([f"w{i}" for i in range(40)], rng.normal(0.1, 0.2, (40, e.dim)).astype(np.float32))
        for e in ENCODERS
    }


def _all(vectors: int = 2) -> list[Subspace]:
    origin = _origin(vectors)
    return [
        pca_subspace(origin, _vocabularies(), 3),
        random_subspace(origin, ENCODERS, 3, np.random.default_rng(0)),
        full_subspace(origin, ENCODERS),
    ]


@given(st.integers(0, 100), st.floats(-2, 2))
def test_the_map_is_affine(seed: int, a: float) -> None:
    """embed(a x + (1 - a) y) = a embed(x) + (1 - a) embed(y), and zero is the origin."""
    for subspace in _all():
        x, y = np.random.default_rng(seed).normal(size=(2, 1, subspace.dimension))
        left, fx, fy = subspace.embed(a * x + (1 - a) * y), subspace.embed(x), subspace.embed(y)
        for name in left:
            assert np.allclose(left[name], a * fx[name] + (1 - a) * fy[name], atol=1e-4)
        zero = subspace.embed(np.zeros((1, subspace.dimension)))
        assert all(np.array_equal(zero[n][0], v) for n, v in _origin().items())


def test_shapes_hold_for_every_encoder_and_vector() -> None:
    """N points become (n, T, D) float32 an encoder."""
    for subspace in _all(vectors=3):
        embedded = subspace.embed(np.ones((5, subspace.dimension)))
        assert {n: v.shape for n, v in embedded.items()} == {"a": (5, 3, 6), "b": (5, 3, 4)}
        assert all(v.dtype == np.float32 for v in embedded.values())


def test_dimensions_count_vectors_and_encoders() -> None:
    """Every token vector of every encoder has coordinates of its own."""
    assert [s.dimension for s in _all(vectors=2)] == [12, 12, 20]


def test_principal_axes_are_as_long_as_the_words_spread() -> None:
    """A unit of z along an axis is one standard deviation of the words along it."""
    subspace = pca_subspace(_origin(1), _vocabularies(), 3)
    table = _vocabularies()["a"].embeddings.astype(np.float64)
    for axis in subspace.axes["a"][:3, 0]:
        length = np.linalg.norm(axis)
        assert np.isclose(np.std(table @ (axis / length), ddof=1), length, rtol=1e-6)


def test_random_directions_are_orthogonal_and_step_by_a_words_norm() -> None:
    """A standard normal z moves each token vector by the root mean square norm of a word."""
    subspace = random_subspace(_origin(1), ENCODERS, 3, np.random.default_rng(0))
    axes = subspace.axes["b"][3:, 0]
    gram = axes @ axes.T
    assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
    assert np.isclose(np.sqrt(np.trace(gram)), np.hypot(2.0, 0.1))


def test_coordinates_move_one_vector_of_one_encoder() -> None:
    """The axes of one token leave the others alone."""
    subspace = full_subspace(_origin(2), ENCODERS)
    z = np.zeros((1, subspace.dimension))
    z[0, 0] = 1.0
    moved = subspace.embed(z)
    assert not np.array_equal(moved["a"][0, 0], _origin()["a"][0])
    assert np.array_equal(moved["a"][0, 1], _origin()["a"][1])
    assert np.array_equal(moved["b"][0], _origin()["b"])


def test_the_map_is_read_only() -> None:
    """Nobody moves the origin or the axes under a search."""
    subspace = full_subspace(_origin(), ENCODERS)
    with pytest.raises(ValueError, match="read-only"):
        subspace.origin["a"][0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        subspace.axes["a"][0, 0, 0] = 1


def test_the_same_vocabulary_gives_the_same_axes() -> None:
    """Signs included, whatever the library's decomposition returns."""
    first, again = pca_subspace(_origin(), _vocabularies(), 3), pca_subspace(_origin(), _vocabularies(), 3)
    assert np.array_equal(first.axes["a"], again.axes["a"])
    largest = [axis.ravel()[np.abs(axis).argmax()] for axis in first.axes["a"][:3]]
    assert all(value > 0 for value in largest)


@pytest.mark.parametrize("dimension", [0, 7])
def test_too_many_dimensions_are_refused(dimension: int) -> None:
    """The message says how many there are."""
    with pytest.raises(InputError, match="1 to"):
        random_subspace(_origin(1), ENCODERS, dimension, np.random.default_rng(0))


@given(st.integers(0, 50), st.floats(-2, 2))
def test_unwhitened_axes_have_length_one_around_the_mean_word(seed: int, a: float) -> None:
    """As the reference code has it: orthonormal axes, the vocabulary's mean on top of the origin; still affine."""
    vocabularies = _vocabularies()
    subspace = pca_subspace(_origin(1), vocabularies, 3, whiten=False, add_mean=True)
    x, y = np.random.default_rng(seed).normal(size=(2, 1, subspace.dimension))
    left, fx, fy = subspace.embed(a * x + (1 - a) * y), subspace.embed(x), subspace.embed(y)
    for name, value in _origin(1).items():
        axes = subspace.axes[name][:, 0]
        moving = axes[np.linalg.norm(axes, axis=1) > 0]
        assert np.allclose(moving @ moving.T, np.eye(3), atol=1e-9)
        zero = subspace.embed(np.zeros((1, subspace.dimension)))[name][0]
        assert np.allclose(zero, value + vocabularies[name].embeddings.mean(axis=0), atol=1e-6)
        assert np.allclose(left[name], a * fx[name] + (1 - a) * fy[name], atol=1e-4)
