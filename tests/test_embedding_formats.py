"""The word's files, read back by diffusers itself and by parsers of the layouts ComfyUI and A1111 document."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from diffusers.loaders import TextualInversionLoaderMixin
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from blackbox_ti.embedding import load_embedding, save_embedding
from blackbox_ti.embedding_formats import embedding_of, file_stem, tensors_of
from blackbox_ti.errors import InputError
from blackbox_ti.wire import Encoder
from server_stub.families import FAMILIES
from tests.server_stub.tiny_models import (
    save_flux,
    save_stable_diffusion,
    save_stable_diffusion_3,
    save_stable_diffusion_xl,
)

Vectors = NDArray[np.float32]
WORD = "<sks>"


def _save_v_prediction(folder: Path) -> Path:
    return save_stable_diffusion(folder, prediction_type="v_prediction")


def _save_sd3_without_t5(folder: Path) -> Path:
    return save_stable_diffusion_3(folder, t5=False)


@dataclass(frozen=True)
class Model:
    """A family as its pipeline has it: `keys` are what the web interfaces call its encoders, in order."""

    save: Callable[[Path], Path]
    pipeline: str
    keys: tuple[str, ...]


MODELS = {
    "sd1": Model(save_stable_diffusion, "StableDiffusionPipeline", (WORD,)),
    "sd2": Model(_save_v_prediction, "StableDiffusionPipeline", (WORD,)),
    "sdxl": Model(save_stable_diffusion_xl, "StableDiffusionXLPipeline", ("clip_l", "clip_g")),
    "sd3": Model(save_stable_diffusion_3, "StableDiffusion3Pipeline", ("clip_l", "clip_g", "t5xxl")),
    "sd3-without-t5": Model(_save_sd3_without_t5, "StableDiffusion3Pipeline", ("clip_l", "clip_g")),
    "flux": Model(save_flux, "FluxPipeline", ("clip_l", "t5xxl")),
}


class WordyStableDiffusion3Pipeline(StableDiffusion3Pipeline, TextualInversionLoaderMixin):  # type: ignore[misc]
    """Diffusers gives SD 3 no loader of words; its own mixin works all the same."""


def _pipeline(folder: Path) -> Any:
    index = DiffusionPipeline.load_config(folder)
    missing = {name: None for name, value in index.items() if isinstance(value, list) and value[0] is None}
    kind = WordyStableDiffusion3Pipeline if index["_class_name"] == "StableDiffusion3Pipeline" else DiffusionPipeline
    return kind.from_pretrained(folder, **missing)


def _encoders(pipe: Any) -> dict[str, Any]:
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    return {name: getattr(pipe, name) for name in names if getattr(pipe, name, None) is not None}


def _word(pipe: Any, count: int) -> dict[str, Vectors]:
    rng = np.random.default_rng(count)
    widths = {name: encoder.get_input_embeddings().embedding_dim for name, encoder in _encoders(pipe).items()}
    return {name: rng.normal(size=(count, width)).astype(np.float32) for name, width in widths.items()}


def _family(model: Model) -> str:
    return {
        "StableDiffusionPipeline": "stable-diffusion",
        "StableDiffusionXLPipeline": "stable-diffusion-xl",
        "StableDiffusion3Pipeline": "stable-diffusion-3",
        "FluxPipeline": "flux",
    }[model.pipeline]


@pytest.fixture(scope="module", params=list(MODELS), name="model")
def _model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]


@pytest.fixture(scope="module", name="folder")
def _folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save(tmp_path_factory.mktemp("model"))


def _learned(pipe: Any, name: str, prompt: str) -> torch.Tensor:
    """Return the rows of an encoder's table that the prompt's added tokens stand for."""
    tokenizer = getattr(pipe, name.replace("text_encoder", "tokenizer"))
    ids = tokenizer(pipe.maybe_convert_prompt(prompt, tokenizer), add_special_tokens=False).input_ids
    added = set(tokenizer.convert_tokens_to_ids([t for t in tokenizer.added_tokens_encoder if t.startswith(WORD)]))
    table: torch.Tensor = getattr(pipe, name).get_input_embeddings().weight.detach()
    return table[[i for i in ids if i in added]]


@pytest.mark.parametrize("count", [1, 3])
def test_diffusers_loads_a_file_an_encoder(model: Model, folder: Path, tmp_path: Path, count: int) -> None:
    """`load_textual_inversion` takes each file as it is, and a prompt then means the word's vectors, bit for bit."""
    pipe = _pipeline(folder)
    word = _word(pipe, count)
    whole = save_embedding(tmp_path, WORD, word, {}, family=_family(model))
    for name, encoder in _encoders(pipe).items():
        path = whole if len(word) == 1 else tmp_path / name
        tokenizer = getattr(pipe, name.replace("text_encoder", "tokenizer"))
        pipe.load_textual_inversion(str(path), text_encoder=encoder, tokenizer=tokenizer)
    for name, vectors in word.items():
        assert torch.equal(_learned(pipe, name, f"a photo of {WORD}"), torch.from_numpy(vectors))


@pytest.mark.parametrize("count", [1, 3])
def test_diffusers_loads_the_whole_file_by_tensor(model: Model, folder: Path, tmp_path: Path, count: int) -> None:
    """As its guide to SDXL words does: the file's tensors, given one by one with their encoders."""
    pipe = _pipeline(folder)
    word = _word(pipe, count)
    tensors = load_file(save_embedding(tmp_path, WORD, word, {}, family=_family(model)))
    for (name, encoder), key in zip(_encoders(pipe).items(), model.keys, strict=True):
        tokenizer = getattr(pipe, name.replace("text_encoder", "tokenizer"))
        state = torch.from_numpy(tensors[key])
        pipe.load_textual_inversion(state, token=WORD, text_encoder=encoder, tokenizer=tokenizer)
        assert torch.equal(_learned(pipe, name, f"{WORD} on a dog"), torch.from_numpy(word[name]))


def test_the_names_are_those_of_the_families_served(model: Model, folder: Path) -> None:
    """The family named in a model card is one the layouts know, by the pipeline's own names of its encoders."""
    served = FAMILIES[model.pipeline](_pipeline(folder))
    word = {e.name: np.zeros((1, 2), np.float32) for e in served.encoders}
    assert served.name == _family(model)
    assert tuple(tensors_of(WORD, word, served.name)) == model.keys


def comfyui(directory: Path, prompt_word: str, key: str) -> list[Vectors]:
    """Return the vectors ComfyUI puts in place of `embedding:NAME`.

    By `comfy/sd1_clip.py`, `load_embed` and `tokenize_with_weights`: words end at spaces; NAME is a file in the folder
    of embeddings, with or without its ending; the tokenizer takes its own key, or the file's first tensor where that is
    missing; one axis is one vector, two are one a row.
    """
    prefix, name = prompt_word.split("embedding:", 1)
    assert not prefix
    assert not set(name) & set(" ()\n")
    path = (directory / f"{name}.safetensors").resolve()
    assert path.parent == directory.resolve()
    tensors = load_file(path)
    value = tensors[key] if key in tensors else next(iter(tensors.values()))
    return [value] if value.ndim == 1 else list(value)


def a1111(path: Path) -> tuple[str, int, dict[str, Vectors]]:
    """Return the name in prompts, the number of vectors, and the tensors A1111 takes from a file.

    By `modules/textual_inversion/textual_inversion.py`, `create_embedding_from_data`: the name is the file's; a file
    with `clip_g` and `clip_l` is SDXL's, its vectors counted by the rows of `clip_g`; any other has exactly one tensor,
    of one axis or two.
    """
    tensors: Mapping[str, Vectors] = load_file(path)
    if "clip_g" in tensors and "clip_l" in tensors:
        return path.stem, tensors["clip_g"].shape[0], dict(tensors)
    assert len(tensors) == 1, "embedding file has multiple terms in it"
    only = np.atleast_2d(next(iter(tensors.values())))
    return path.stem, only.shape[0], {"": only}


@pytest.mark.parametrize("count", [1, 3])
def test_comfyui_reads_the_file_under_the_words_name(model: Model, folder: Path, tmp_path: Path, count: int) -> None:
    """Each of its tokenizers finds its own encoder's vectors, in order."""
    word = _word(_pipeline(folder), count)
    save_embedding(tmp_path, WORD, word, {}, family=_family(model))
    keys = ("clip_l",) if len(word) == 1 else model.keys
    for vectors, key in zip(word.values(), keys, strict=True):
        assert np.array_equal(comfyui(tmp_path, "embedding:sks", key), vectors)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_a1111_reads_the_file_under_the_words_name(name: str, tmp_path: Path, count: int) -> None:
    """It serves words to these families; it counts the vectors right and finds every encoder's."""
    model = MODELS[name]
    word = _word(_pipeline(model.save(tmp_path / "model")), count)
    save_embedding(tmp_path, WORD, word, {}, family=_family(model))
    stem, vectors, tensors = a1111(tmp_path / "sks.safetensors")
    assert (stem, vectors) == ("sks", count)
    keys = ("",) if len(word) == 1 else model.keys
    assert all(np.array_equal(tensors[k], v) for k, v in zip(keys, word.values(), strict=True))


@given(st.sampled_from(sorted(MODELS)), st.integers(1, 5))
def test_every_layout_reads_back(name: str, count: int) -> None:
    """Whatever the family, the encoders get back what they gave."""
    model = MODELS[name]
    names = ["text_encoder", "text_encoder_2", "text_encoder_3"][: len(model.keys)]
    rng = np.random.default_rng(count)
    word = {n: rng.normal(size=(count, 3 + i)).astype(np.float32) for i, n in enumerate(names)}
    encoders = [Encoder(name=n, dim=v.shape[1], norm_mean=1, norm_std=1) for n, v in word.items()]
    found = embedding_of(tensors_of(WORD, word, _family(model)), encoders)
    assert found.keys() == word.keys()
    assert all(np.array_equal(found[n], word[n]) for n in names)


def test_words_learned_elsewhere_can_be_used(tmp_path: Path) -> None:
    """A web interface's SDXL file, as it is, is a start; one for FLUX does not fit."""
    sdxl = {"text_encoder": np.ones((2, 4), np.float32), "text_encoder_2": np.ones((2, 6), np.float32)}
    encoders = [Encoder(name=n, dim=v.shape[1], norm_mean=1, norm_std=1) for n, v in sdxl.items()]
    path = save_embedding(tmp_path, WORD, sdxl, {}, family="stable-diffusion-xl")
    assert np.array_equal(load_embedding(path, encoders)["text_encoder_2"], sdxl["text_encoder_2"])
    flux = save_embedding(tmp_path, WORD, sdxl | {"text_encoder_2": np.ones((2, 9), np.float32)}, {}, family="flux")
    with pytest.raises(InputError, match="text_encoder_2 takes vectors of 6"):
        load_embedding(flux, encoders)


@given(st.text(st.characters(codec="utf-8") | st.sampled_from('<>./\\:*?"|()[]{} ,~-_\n\0'), max_size=64))
def test_any_word_has_a_file_name_of_its_own_folder(word: str) -> None:
    """No separator, nothing hidden, nothing a prompt's syntax or another system's names would trip over."""
    stem = file_stem(word)
    assert stem
    assert Path(stem).name == stem
    assert not set(stem) & set('<>/\\:*?"|()[]{} ,~\n\0')
    assert not {stem[0], stem[-1]} & set(".-")


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("<sks>", "sks"),
        ("<my-cat_2>", "my-cat_2"),
        ("<>", "word"),
        ("../..", "word"),
        ("<con>", "word"),
        ("NUL.x", "word"),
    ],
)
def test_file_names(word: str, stem: str) -> None:
    """The word without its brackets; names that some systems keep for themselves are avoided."""
    assert file_stem(word) == stem


def test_letters_and_digits_of_a_word_stay() -> None:
    """Words of plain letters keep their name."""
    assert file_stem(string.ascii_letters + string.digits) == string.ascii_letters + string.digits
