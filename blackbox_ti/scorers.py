"""Pictures to numbers, on the user's own machine: what image mode judges candidates by."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.clip import Clip
from blackbox_ti.errors import InputError, ScorerError

__all__ = ["CallableScorer", "ClipScorer", "Scorer", "checked_scores", "load_scorer", "without_placeholder"]

Array = NDArray[np.float64]


@runtime_checkable
class Scorer(Protocol):
    """Judges pictures; **larger is better**. The same pictures must have the same scores, or no run can be resumed."""

    @property
    def name(self) -> str:
        """What the result record calls it."""
        ...

    def scores(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Sequence[float] | NDArray[Any]:
        """Return one number a picture (n,); `prompts` (n,) are what each was made from, the placeholder in them."""
        ...


class ClipScorer:
    """Likeness to the references, and where `text_weight` is not 0 to the prompt, by CLIP (Radford et al. 2021).

        image_weight * mean over references of cos(picture, reference) + text_weight * cos(picture, prompt)

    In the prompt `class_word` stands for the placeholder; without one the placeholder is dropped. The first term alone
    is CLIP-I, the second CLIP-T (Gal et al. 2022, arXiv 2208.01618).

    Raises:
        InputError: both weights are 0, or there are no references.
    """

    def __init__(
        self,
        clip: Clip,
        references: Sequence[Image.Image],
        *,
        image_weight: float = 1.0,
        text_weight: float = 0.0,
        placeholder_token: str = "<sks>",  # noqa: S107
        class_word: str | None = None,
    ) -> None:
        if not image_weight and not text_weight:
            raise InputError("the weights of pictures and text are both 0; set --image-weight or --text-weight")
        if not references:
            raise InputError("a CLIP score needs at least one reference picture")
        self._clip, self._image_weight, self._text_weight = clip, image_weight, text_weight
        self._placeholder, self._class_word = placeholder_token, class_word
        self._reference = clip.image_features(references).mean(axis=0)
        self._texts: dict[str, NDArray[np.float32]] = {}

    @property
    def name(self) -> str:
        """The weights of its two terms."""
        return f"clip (image {self._image_weight:g}, text {self._text_weight:g})"

    def scores(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Array:
        """Return one number a picture (n,)."""
        features = self._clip.image_features(pictures)
        scores: Array = self._image_weight * (features @ self._reference).astype(np.float64)
        if self._text_weight:
            texts = np.stack([self._text(prompt) for prompt in prompts])
            scores += self._text_weight * np.einsum("nc,nc->n", features, texts, dtype=np.float64)
        return scores

    def _text(self, prompt: str) -> NDArray[np.float32]:
        if prompt not in self._texts:
            plain = without_placeholder(prompt, self._placeholder, self._class_word)
            self._texts[prompt] = self._clip.text_features([plain])[0]
        return self._texts[prompt]


def without_placeholder(prompt: str, placeholder_token: str, class_word: str | None) -> str:
    """Return `prompt` with `class_word` for the placeholder, or with the placeholder dropped."""
    return " ".join(prompt.replace(placeholder_token, class_word or "").split())


class CallableScorer:
    """A scorer from any callable: a list of RGB pictures in, one number each out, larger is better."""

    def __init__(self, function: Callable[[list[Image.Image]], Any], name: str | None = None) -> None:
        self._function = function
        self._name = name or str(getattr(function, "__qualname__", type(function).__qualname__))

    @property
    def name(self) -> str:
        """The callable's own name, or the one given."""
        return self._name

    def scores(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
        """Return what the callable says of the pictures."""
        del prompts
        return self._function(list(pictures))


def load_scorer(name: str) -> Scorer:
    """Return the scorer at `package.module:attribute`: a callable, or an object that is a `Scorer`; larger is better.

    Raises:
        ScorerError: there is no such module or attribute, or it cannot be called.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ScorerError(f"'{name}' names no scorer; it looks like package.module:function")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        # An import runs the user's code, which may fail in any way.
        raise ScorerError(f"cannot import the scorer's module '{module}' ({error}); is it on PYTHONPATH?") from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise ScorerError(f"the module '{module}' has no '{attribute}'; name a function of it")
    if isinstance(found, Scorer) and not isinstance(found, type):
        return found
    if not callable(found) or isinstance(found, type):
        raise ScorerError(f"'{name}' is not a function of pictures; name one that returns a number for each")
    return CallableScorer(found, name)


def checked_scores(scorer: Scorer, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Array:
    """Return a scorer's numbers (n,) float64, each finite.

    Raises:
        ScorerError: it failed, or did not return one finite number a picture.
    """
    try:
        told = scorer.scores(pictures, prompts)
        scores = np.asarray([float(score) for score in told], dtype=np.float64)
    except Exception as error:
        # The scorer is the user's own code.
        raise ScorerError(f"the scorer {scorer.name} failed: {type(error).__name__}: {error}") from error
    if len(scores) != len(pictures):
        raise ScorerError(f"the scorer {scorer.name} returned {len(scores)} numbers for {len(pictures)} pictures")
    if not np.isfinite(scores).all():
        raise ScorerError(f"the scorer {scorer.name} returned NaN or infinity; give a bad picture a low number instead")
    return scores
