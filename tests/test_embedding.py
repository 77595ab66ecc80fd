"""Result files: what the ecosystem reads, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from blackbox_ti.embedding import load_embedding, read_provenance, save_embedding, stored_placeholder
from blackbox_ti.errors import InputError, OutputError
from blackbox_ti.wire import Encoder

ENCODERS = [Encoder(name="text", dim=4, norm_mean=1.0, norm_std=0.1)]
TWO = [*ENCODERS, Encoder(name="text_2", dim=3, norm_mean=1.0, norm_std=0.1)]


def _vectors(count: int, dim: int = 4) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(count).normal(size=(count, dim)).astype(np.float32)


@given(st.integers(1, 6))
def test_files_round_trip_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, count: int) -> None:
    """What is saved is what is loaded, with the word and the origin."""
    path = save_embedding(tmp_path_factory.mktemp("e"), "<sks>", {"text": _vectors(count)}, {"seed": 3})
    assert np.array_equal(load_embedding(path, ENCODERS)["text"], _vectors(count))
    assert stored_placeholder(path) == "<sks>"
    assert read_provenance(path) == {"seed": 3}


def test_the_same_word_is_the_same_file(tmp_path: Path) -> None:
    """Bit for bit, header included, however often it is written."""
    written = set()
    for i in range(12):
        (tmp_path / str(i)).mkdir()
        path = save_embedding(
            tmp_path / str(i), "<sks>", {"text": _vectors(2), "text_2": _vectors(1, 3)}, {"b": 1, "a": 2}
        )
        written.add(path.read_bytes())
    assert len(written) == 1


def test_the_layout_is_the_one_diffusers_reads(tmp_path: Path) -> None:
    """One tensor under the word's name: (D,) for one vector, (T, D) for several."""
    one = load_file(save_embedding(tmp_path, "<sks>", {"text": _vectors(1)}, {}))
    assert {k: v.shape for k, v in one.items()} == {"<sks>": (4,)}
    many = load_file(save_embedding(tmp_path, "<sks>", {"text": _vectors(2)}, {}))
    assert {k: v.shape for k, v in many.items()} == {"<sks>": (2, 4)}


def test_several_encoders_keep_their_names(tmp_path: Path) -> None:
    """Where the family says nothing of them, each encoder's tensor has its name."""
    path = save_embedding(tmp_path, "<sks>", {"text": _vectors(1), "text_2": _vectors(1, 3)}, {})
    loaded = load_embedding(path, TWO)
    assert np.array_equal(loaded["text_2"], _vectors(1, 3))
    assert stored_placeholder(path) == "<sks>"


def test_a_word_for_another_model_is_refused(tmp_path: Path) -> None:
    """Another width, or an encoder that is missing, is named."""
    path = save_embedding(tmp_path, "<sks>", {"text": _vectors(1, 5)}, {})
    with pytest.raises(InputError, match="vectors of 4 numbers"):
        load_embedding(path, ENCODERS)
    with pytest.raises(InputError, match="text"):
        load_embedding(path, TWO)


def test_broken_files_are_input_errors(tmp_path: Path) -> None:
    """Garbage, nothing, and numbers that are none are refused by name."""
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not safetensors at all")
    for path in (bad, tmp_path / "none.safetensors"):
        with pytest.raises(InputError, match=path.name):
            load_embedding(path, ENCODERS)
    save_file({"<sks>": np.full(4, np.nan, dtype=np.float32)}, bad)
    with pytest.raises(InputError):
        load_embedding(bad, ENCODERS)


def test_a_file_from_elsewhere_has_its_word_and_no_origin(tmp_path: Path) -> None:
    """Without our metadata, the tensor's name is the word."""
    save_file({"<cat>": _vectors(1)[0]}, tmp_path / "x.safetensors")
    assert stored_placeholder(tmp_path / "x.safetensors") == "<cat>"
    assert read_provenance(tmp_path / "x.safetensors") == {}


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    """A file where the folder should be is told as such."""
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OutputError, match="--out"):
        save_embedding(tmp_path / "run", "<sks>", {"text": _vectors(1)}, {})


def test_one_encoder_is_one_file_under_two_names(tmp_path: Path) -> None:
    """Diffusers looks for `learned_embeds`, the web interfaces for the word; nothing else is left in the folder."""
    path = save_embedding(tmp_path / "run", "<sks>", {"text": _vectors(1)}, {})
    assert sorted(p.name for p in path.parent.iterdir()) == ["learned_embeds.safetensors", "sks.safetensors"]
    assert (path.parent / "sks.safetensors").read_bytes() == path.read_bytes()


def test_several_encoders_have_a_file_each_beside_the_whole(tmp_path: Path) -> None:
    """Each says where it comes from, and none of them passes for the whole word."""
    path = save_embedding(tmp_path, "<sks>", {"text": _vectors(1), "text_2": _vectors(2, 3)}, {"seed": 1})
    second = tmp_path / "text_2" / "learned_embeds.safetensors"
    assert {k: v.shape for k, v in load_file(second).items()} == {"<sks>": (2, 3)}
    assert read_provenance(second) == read_provenance(path) == {"seed": 1}
    with pytest.raises(InputError, match="text takes vectors of 4 numbers"):
        load_embedding(second, TWO)
