"""What every part asks, of which model: a generation of 20 candidates x 8 samples, unless a part says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.concept import encode_png
from blackbox_ti.http_endpoint import HttpEndpoint
from blackbox_ti.wire import LossRequest, ModelCard, Sample, encode_tensor
from server_stub.diffusers_engine import DiffusersEngine
from server_stub.engine import LossJob
from server_stub.placement import Placement
from tests.benchmarks.throughput_full_size import full_size_pipeline

__all__ = ["CANDIDATES", "SAMPLES", "WORD", "Options", "client", "job", "pictures", "prompts"]

CANDIDATES, SAMPLES = 20, 8
WORD = "<sks>"
_STARTS = ("a photo of", "a picture of", "an image of", "a sketch of", "one", "my", "a drawing of", "a print of")


@dataclass(frozen=True)
class Options:
    """The model and its form: `model` is tiny, full-size (built on the spot), a directory or a hub id."""

    model: str = "tiny"
    device: str = "auto"
    dtype: str = "float32"
    micro_batch: int | None = None
    resolution: int | None = None
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    int8: bool = False
    clients: tuple[int, ...] = (1, 4, 16)
    rounds: int = 5
    threads: int | None = None

    def engine(self, **changes: Any) -> DiffusersEngine:
        """Return the engine of these options, some of them changed."""
        form = asdict(self) | changes
        del form["clients"], form["rounds"], form["threads"]
        model, micro_batch, resolution = form.pop("model"), form.pop("micro_batch"), form.pop("resolution")
        if model != "full-size":
            return DiffusersEngine.load(model, micro_batch=micro_batch, resolution=resolution, **form)
        return DiffusersEngine(
            full_size_pipeline(form["dtype"]),
            model="full-size",
            micro_batch=micro_batch,
            resolution=resolution,
            placement=Placement(**form).resolved(),
        )


def prompts(count: int) -> list[str]:
    """Return `count` different prompts."""
    return [f"{_STARTS[i]} {WORD}" for i in range(count)]


def pictures(side: int, count: int = 5) -> list[Image.Image]:
    """Return pictures of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in pixels]


def _bank(samples: int, texts: int) -> list[Sample]:
    return [Sample(image=i % 5, prompt=i % texts, t=(i + 0.5) / samples, seed=i) for i in range(samples)]


def _vectors(candidates: int, dim: int, norm: float) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, norm / dim**0.5, (candidates, 1, dim)).astype(np.float32)


def job(engine: DiffusersEngine, candidates: int = CANDIDATES, samples: int = SAMPLES, *, texts: int = 1) -> LossJob:
    """Return a generation for an engine in this process, its samples under `texts` prompts."""
    vectors = {e.name: _vectors(candidates, e.dim, e.norm_mean) for e in engine.info.encoders}
    latents = engine.encode_images(pictures(engine.info.resolution))
    return LossJob(latents, WORD, vectors, prompts(texts), _bank(samples, texts))


def _request(card: ModelCard, concept: str, candidates: int, samples: int) -> LossRequest:
    vectors = {e.name: encode_tensor(_vectors(candidates, e.dim, e.norm_mean)) for e in card.encoders}
    return LossRequest(
        concept=concept, placeholder_token=WORD, embeddings=vectors, prompts=prompts(1), samples=_bank(samples, 1)
    )


def client(url: str, *, api_key: str | None = None) -> Callable[[int, int], int]:
    """Return a client of its own that asks for candidates x samples over HTTP, and returns how many forwards it was."""
    endpoint = HttpEndpoint(url, api_key=api_key)
    card = endpoint.describe()
    concept = endpoint.register_concept([encode_png(picture) for picture in pictures(card.resolution)])

    def ask(candidates: int = CANDIDATES, samples: int = SAMPLES) -> int:
        return endpoint.losses(_request(card, concept, candidates, samples), label="benchmark").charge.forwards

    return ask
