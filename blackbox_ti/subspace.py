"""The affine map from search coordinates to embeddings, e = e0 + A z, scaled so that z of unit variance is natural.

A search vector holds the T token vectors of every encoder, one after the other; each encoder is scaled by its own
vocabulary, so that a unit of z moves each of them by one spread of its words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import InputError
from blackbox_ti.wire import Encoder

__all__ = ["Embedding", "Subspace", "full_subspace", "pca_subspace", "principal_axes", "random_subspace"]

Array = NDArray[np.float64]
Embedding = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Subspace:
    """An affine map: `origin` maps encoders to (T, D), `axes` maps them to (d, T, D).

    `embed(z)` is origin + sum_i z_i axes_i; both are read-only.
    """

    origin: Mapping[str, Array]
    axes: Mapping[str, Array]

    @property
    def dimension(self) -> int:
        """d, the number of search coordinates."""
        return int(next(iter(self.axes.values())).shape[0])

    def embed(self, z: Array) -> Embedding:
        """Return the embeddings of search points z (n, d): encoder -> (n, T, D) float32."""
        return {
            name: np.asarray(self.origin[name] + np.tensordot(z, axes, axes=1), dtype=np.float32)
            for name, axes in self.axes.items()
        }


def _freeze(array: Array) -> Array:
    array = np.ascontiguousarray(array, dtype=np.float64)
    array.flags.writeable = False
    return array


def _check(dimension: int, available: int) -> None:
    if not 1 <= dimension <= available:
        raise InputError(f"the subspace can have 1 to {available} dimensions here, not {dimension}; set --dimension")


def _spread(encoder: Encoder) -> float:
    """The root mean square of one coordinate of a word's embedding."""
    return float(np.hypot(encoder.norm_mean, encoder.norm_std) / np.sqrt(encoder.dim))


def _place(rows: Array, vectors: int, vector: int) -> Array:
    """Rows (k, D) as axes (k, T, D) that move only token `vector`."""
    axes = np.zeros((rows.shape[0], vectors, rows.shape[1]))
    axes[:, vector] = rows
    return axes


def _blocks(origin: Embedding, per_token: Mapping[str, Array]) -> Subspace:
    """The subspace whose coordinates are those of `per_token` for every token of every encoder in turn."""
    vectors = {name: value.shape[0] for name, value in origin.items()}
    total = sum(per_token[name].shape[0] * t for name, t in vectors.items())
    axes = {name: np.zeros((total, *value.shape)) for name, value in origin.items()}
    at = 0
    for name, t in vectors.items():
        rows = per_token[name]
        for vector in range(t):
            axes[name][at : at + len(rows)] = _place(rows, t, vector)
            at += len(rows)
    return Subspace(
        {n: _freeze(v.astype(np.float64)) for n, v in origin.items()}, {n: _freeze(a) for n, a in axes.items()}
    )


def pca_subspace(
    origin: Embedding,
    vocabularies: Mapping[str, Vocabulary],
    dimension: int,
    *,
    whiten: bool = True,
    add_mean: bool = False,
) -> Subspace:
    """Return the subspace of the vocabulary's principal axes, each as long as the words' spread along it.

    `dimension` is the number of coordinates a token vector has; with T vectors there are T times as many. Without
    `whiten` axes have length 1; `add_mean` moves the origin by the mean word. Both are what the paper's reference code
    does (its `inverse_transform` of an unwhitened PCA).
    """
    rows = {}
    for name in origin:
        rows[name] = principal_axes(vocabularies[name].embeddings, dimension, whiten=whiten)
    return _blocks(_shifted(origin, vocabularies) if add_mean else origin, rows)


def principal_axes(table: NDArray[np.float32], dimension: int, *, whiten: bool = True) -> Array:
    """Return the first principal axes (d, D) of word embeddings (V, D), as long as the words' spread or of length 1."""
    centred = table.astype(np.float64) - table.astype(np.float64).mean(axis=0)
    _check(dimension, min(len(table) - 1, table.shape[1]))
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    spread = singular[:dimension] / np.sqrt(max(len(table) - 1, 1))
    return np.asarray(_signed(axes[:dimension]) * (spread[:, None] if whiten else 1.0))


def _shifted(origin: Embedding, vocabularies: Mapping[str, Vocabulary]) -> Embedding:
    return {name: value + vocabularies[name].embeddings.mean(axis=0) for name, value in origin.items()}


def _signed(axes: Array) -> Array:
    """Axes with their largest entry positive: the sign of a singular vector is the library's whim."""
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1, keepdims=True), axis=1)
    return np.asarray(axes * np.where(largest < 0, -1.0, 1.0))


def random_subspace(
    origin: Embedding, encoders: Sequence[Encoder], dimension: int, rng: np.random.Generator
) -> Subspace:
    """Return a subspace of random orthogonal directions scaled by the prior of the embeddings' norm.

    A step of one standard deviation in every coordinate has the mean norm of a word.
    """
    rows = {}
    for encoder in encoders:
        _check(dimension, encoder.dim)
        basis, _ = np.linalg.qr(rng.standard_normal((encoder.dim, dimension)))
        rows[encoder.name] = basis.T * (_spread(encoder) * np.sqrt(encoder.dim / dimension))
    return _blocks(origin, rows)


def full_subspace(origin: Embedding, encoders: Sequence[Encoder]) -> Subspace:
    """Return the whole space, each coordinate scaled by the root mean square of a word's."""
    return _blocks(origin, {e.name: np.eye(e.dim) * _spread(e) for e in encoders})
