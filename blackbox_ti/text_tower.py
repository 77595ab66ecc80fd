"""CLIP's text tower on the user's own machine, with a word's vectors in place of a word.

Where the host's text encoder is a public CLIP's text tower, as in Stable Diffusion 1 and 2, what the denoiser will be
told of a word can be computed here at no cost to the endpoint, and so can its gradient: of this tower alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.errors import InputError
from blackbox_ti.initialise import whole_words
from blackbox_ti.wire import ModelCard

if TYPE_CHECKING:
    from blackbox_ti.clip import Clip

__all__ = ["TextTower", "matching_tower"]

Array = NDArray[np.float32]
_BATCH: Final = 64
_FIT: Final = 80  # evaluations; most words are as near as they come after 60
_RIDGE: Final = 1e-5  # what a step costs; without it words run away to fifty times their length for no nearness
# The end of the text and some of the padding after it, where a causal tower sums up what it read.
_AFTER_END: Final = (0, 1, 3, 7)
_PARTS: Final = ("token_embedding", "positional_embedding", "attn_mask", "transformer", "ln_final", "text_projection")


class TextTower:
    """The text tower of `clip`.

    Raises:
        InputError: its text tower is not one of CLIP's own kind.
    """

    def __init__(self, clip: Clip) -> None:
        self._clip, self._torch = clip, clip.torch
        text: Any = getattr(clip.model, "text", clip.model)
        if not all(hasattr(text, part) for part in _PARTS) or text.attn_mask is None:
            raise InputError("the text tower of this CLIP takes no token vectors; use one of CLIP's own kind")
        self._text, self._embedding = text, text.token_embedding

    @property
    def table(self) -> Array:
        """The token table (V, D)."""
        return np.asarray(self._embedding.weight.detach().float().cpu().numpy(), dtype=np.float32)

    def vocabulary(self) -> Vocabulary:
        """Return the tokens and their embeddings, in the order of their ids."""
        tokenizer = self._clip.tokenizer
        known: dict[str, int] = tokenizer.encoder if hasattr(tokenizer, "encoder") else tokenizer.tokenizer.get_vocab()
        tokens = [token for token, _ in sorted(known.items(), key=lambda item: item[1])]
        return Vocabulary(tokens, self.table[: len(tokens)])

    def text_states(self, text: str) -> Array:
        """Return the states (K, D) at the end of a text and after it."""
        with self._torch.inference_mode():
            return np.asarray(self._run(*self._ids([text]), _AFTER_END)[0].numpy(), dtype=np.float32)

    def word_states(self, template: str, vectors: NDArray[Any], stand_ins: Sequence[str]) -> Array:
        """Return the states (n, K, D) of `template` filled in with words of vectors (n, T, D).

        `stand_ins` are two different words of one token each, which show where the word is.
        """
        row = self._templates([template], vectors.shape[1], stand_ins)
        parts = []
        for i in range(0, len(vectors), _BATCH):
            (part,) = self._tensors(vectors[i : i + _BATCH])
            ids, ends, slots = (x.expand(len(part), *x.shape[1:]) for x in row)
            with self._torch.inference_mode():
                parts.append(self._run(ids, ends, _AFTER_END, slots, part).numpy())
        return np.asarray(np.concatenate(parts), dtype=np.float32)

    def _templates(self, templates: Sequence[str], count: int, stand_ins: Sequence[str]) -> tuple[Any, Any, Any]:
        """Token ids (n, L) of templates with a word of `count` vectors, where they end (n), and its places (n, T)."""
        (ids, ends), (others, _) = (self._ids([t.format(" ".join([w] * count)) for t in templates]) for w in stand_ins)
        places = (ids != others).nonzero()[:, 1]
        if len(places) != len(ids) * count:
            raise InputError(f"{' and '.join(stand_ins)} are not single tokens of this CLIP; name two that are")
        return ids, ends, places.reshape(len(ids), count)

    def fitted(
        self, targets: Mapping[str, Array], origin: NDArray[Any], axes: NDArray[Any], stand_ins: Sequence[str]
    ) -> Array:
        """Return the word (T, D) whose states come nearest to `targets`, template -> (K, D), in least squares.

        It is sought from `origin` (T, D) along `axes` (d, D) by L-BFGS (Liu and Nocedal 1989), by gradients of this
        tower, which is the user's own.
        """
        torch, (start, along) = self._torch, self._tensors(origin, axes)
        ids, ends, slots = self._templates(list(targets), len(origin), stand_ins)
        wanted = torch.tensor(np.stack(list(targets.values())))
        z = torch.zeros(len(start), len(along), requires_grad=True)

        def miss() -> Any:
            word = (start + z @ along).expand(len(ids), -1, -1)
            return (self._run(ids, ends, _AFTER_END, slots, word) - wanted).square().sum()

        with torch.no_grad():
            scale = max(miss().item(), 1e-12)
        search = torch.optim.LBFGS([z], max_iter=_FIT, max_eval=_FIT, history_size=20, line_search_fn="strong_wolfe")

        def closure() -> Any:
            share = miss() / scale + _RIDGE * z.square().sum()
            (z.grad,) = torch.autograd.grad(share, z)
            return share

        search.step(closure)
        with torch.no_grad():
            return np.asarray((start + z @ along).numpy(), dtype=np.float32)

    def likeness_slope(
        self, templates: Sequence[str], vectors: NDArray[Any], image_feature: NDArray[Any], stand_ins: Sequence[str]
    ) -> Array:
        """Return the gradient (T, D) of a word's cosine with `image_feature` (C), summed over templates."""
        torch, (word, wanted) = self._torch, self._tensors(vectors, image_feature)
        ids, ends, slots = self._templates(templates, len(vectors), stand_ins)
        word.requires_grad_()
        states = self._run(ids, ends, _AFTER_END[:1], slots, word.expand(len(ids), -1, -1))
        (slope,) = torch.autograd.grad((self._projected(states[:, 0]) @ wanted).sum(), word)
        return np.asarray(slope.numpy(), dtype=np.float32)

    def _tensors(self, *arrays: NDArray[Any]) -> list[Any]:
        return [self._torch.tensor(np.asarray(a, dtype=np.float32)) for a in arrays]

    def _projected(self, states: Any) -> Any:
        """CLIP's features of states (n, D) at the end of a text, unit vectors."""
        projection = self._text.text_projection
        if projection is not None:
            weight = projection.weight.T if hasattr(projection, "weight") else projection
            states = states @ weight.float().cpu()
        return self._torch.nn.functional.normalize(states, dim=-1)

    def _ids(self, texts: Sequence[str]) -> tuple[Any, Any]:
        """Token ids (n, L) padded with the end token, as Stable Diffusion pads, and where the texts end (n)."""
        ids = self._clip.tokenizer(list(texts))
        ends = ids.argmax(dim=1)  # the end token has the largest id
        after = self._torch.arange(ids.shape[1]) > ends[:, None]
        return self._torch.where(after, ids.max(dim=1, keepdim=True).values, ids), ends

    def _run(self, ids: Any, ends: Any, after: Sequence[int], slots: Any = None, vectors: Any = None) -> Any:
        """Run the tower over token ids (n, L), those at `slots` (n, T) embedded as `vectors` (n, T, D).

        The tower is causal, so it need not read further than what is wanted of it.
        """
        torch, text, weight = self._torch, self._text, self._embedding.weight
        at = (ends[:, None] + torch.tensor(after)).clamp(max=ids.shape[1] - 1)
        length, rows = int(at.max()) + 1, torch.arange(len(ids))[:, None]
        x = self._embedding(ids[:, :length].to(weight.device))
        if slots is not None:
            x = x.index_put((rows, slots), vectors.to(weight.device, weight.dtype))
        x = text.transformer(x + text.positional_embedding[:length], attn_mask=text.attn_mask[:length, :length])
        return text.ln_final(x)[rows, at].float().cpu()


def matching_tower(clip: Clip | None, card: ModelCard, vocabularies: Mapping[str, Vocabulary]) -> TextTower | None:
    """Return the text tower of `clip` where it is the host's one text encoder, as far as the host lets one see.

    Token tables are compared row by row, to half precision; where the host offers none, the dimension and the norms on
    its card.
    """
    if clip is None or len(card.encoders) != 1:
        return None
    try:
        tower = TextTower(clip)
    except InputError:
        return None
    encoder, table = card.encoders[0], tower.table
    if table.shape[1] != encoder.dim:
        return None
    if encoder.name in vocabularies:
        theirs = vocabularies[encoder.name].embeddings
        same = len(theirs) <= len(table) and np.allclose(table[: len(theirs)], theirs, rtol=2e-3, atol=1e-4)
        return tower if same else None
    norms = np.linalg.norm(whole_words(tower.vocabulary()).embeddings, axis=1)
    same = np.allclose([norms.mean(), norms.std()], [encoder.norm_mean, encoder.norm_std], rtol=0.01)
    return tower if same else None
