"""The engine over diffusers: losses in fixed-shape micro-batches, pictures by the model's own pipeline.

Batch invariance: every pass of the denoiser has the same shape, `micro_batch` rows, the last one of a request padded,
and so has every pass of a text encoder. Kernels are chosen by shape, so a row's bits depend neither on how many other
rows there are nor on what they hold; `warm_up` checks on this very machine that they don't depend on the row's place.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import diffusers.utils.logging as diffusers_logging
import numpy as np
import torch
import transformers.utils.logging as transformers_logging
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blackbox_ti.errors import InputError
from blackbox_ti.wire import ImageItem, Sample
from server_stub.engine import EngineInfo, ImageJob, LossJob
from server_stub.families import FAMILIES, Conditioning, Family
from server_stub.fingerprint import fingerprint
from server_stub.tiny import PIPELINE_DIR

__all__ = ["DTYPES", "DiffusersEngine", "LossWork", "Slice", "pick_device"]

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DEFAULT_MICRO_BATCH: Final = {"cpu": 8}
_OTHER_MICRO_BATCH: Final = 16
_TEXT_BATCH: Final = 8
_WARM_UP_STEPS: Final = 5


@dataclass
class LossWork:
    """A loss job prepared: row i scores latents `noisy[sample[i]]` under text row `pair[i]`; `losses` (B * n)."""

    noisy: Tensor
    target: Tensor
    timestep: Tensor
    conditioning: Conditioning
    sample: Tensor
    pair: Tensor
    losses: Tensor

    @property
    def rows(self) -> int:
        """The number of denoiser passes the job takes, candidate by candidate."""
        return len(self.sample)


@dataclass(frozen=True)
class Slice:
    """Rows `start` to `stop` of one piece of work."""

    work: LossWork
    start: int
    stop: int


class DiffusersEngine:
    """A diffusers pipeline behind the `Engine` protocol."""

    def __init__(self, pipe: Any, *, model: str = "", micro_batch: int | None = None) -> None:
        pipe.set_progress_bar_config(disable=True)
        identity = fingerprint(pipe)
        self.pipe = pipe
        self.device = torch.device(pipe.device)
        self.micro_batch = micro_batch or _DEFAULT_MICRO_BATCH.get(self.device.type, _OTHER_MICRO_BATCH)
        self.family: Family = FAMILIES[type(pipe).__name__](pipe)
        self._encoders = {encoder.name: encoder for encoder in self.family.encoders}
        self._info = self._describe(model or type(pipe).__name__, identity)

    @classmethod
    def load(
        cls,
        model: str | Path = "tiny",
        *,
        device: str = "auto",
        dtype: str = "float32",
        micro_batch: int | None = None,
        allow_pickle: bool = False,
        revision: str | None = None,
        variant: str | None = None,
    ) -> Self:
        """Return the engine of a local diffusers directory, a hub id, or the bundled model, `tiny`.

        Weights come from safetensors files, unless `allow_pickle` lets pickled ones in as well. The libraries' warnings
        and progress bars are turned off for the process: warnings quote prompts.

        Raises:
            InputError: the model cannot be loaded, or is of a family not served.
        """
        if dtype not in DTYPES:
            raise InputError(f"dtype {dtype!r} is not known; use one of {', '.join(DTYPES)}")
        _quieten_libraries()
        path = str(PIPELINE_DIR) if model == "tiny" else str(model)
        options = {"revision": revision, "variant": variant, "use_safetensors": None if allow_pickle else True}
        pipe = _load_pipeline(path, torch_dtype=DTYPES[dtype], **options)
        return cls(pipe.to(pick_device(device)), model=str(model), micro_batch=micro_batch)

    @property
    def info(self) -> EngineInfo:
        """The model's share of the model card."""
        return self._info

    def _describe(self, model: str, identity: str) -> EngineInfo:
        return EngineInfo(
            model=model,
            family=self.family.name,
            fingerprint=identity,
            encoders=[encoder.card() for encoder in self.family.encoders],
            resolution=self.family.resolution,
            prediction_type=self.family.prediction_type,
            max_prompt_tokens=min(encoder.max_length for encoder in self.family.encoders),
        )

    def is_token(self, word: str) -> bool:
        """Return whether `word` already is a token of any encoder."""
        return any(encoder.is_token(word) for encoder in self.family.encoders)

    def prompt_tokens(self, prompt: str, placeholder_token: str, vectors: int) -> int:
        """Return how many tokens `prompt` takes, start and end included, for the encoder with the least room."""
        encoder = min(self.family.encoders, key=lambda e: e.max_length)
        return encoder.count(encoder.substitute(prompt, placeholder_token, vectors))

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Return the latents (n, C, h, w) of RGB pictures, each encoded alone."""
        with torch.inference_mode():
            latents = [self.family.encode_image(image).cpu() for image in images]
        return torch.cat(latents).numpy()

    def losses(self, job: LossJob) -> NDArray[np.float32]:
        """Return per-sample losses (B, n): the mean squared error of the denoiser's prediction, in float32."""
        work = self.prepare(job)
        for start in range(0, work.rows, self.micro_batch):
            self.score([Slice(work, start, min(start + self.micro_batch, work.rows))])
        return work.losses.cpu().numpy().reshape(-1, len(job.samples))

    def prepare(self, job: LossJob) -> LossWork:
        """Encode the texts, once for each candidate and prompt asked for, and diffuse the samples, once for all."""
        candidates = len(next(iter(job.embeddings.values())))
        prompts = sorted({sample.prompt for sample in job.samples})
        column = torch.tensor([prompts.index(sample.prompt) for sample in job.samples])
        candidate = torch.arange(candidates).repeat_interleave(len(job.samples))
        with torch.inference_mode():
            noisy, target, timestep = self._diffuse(job.latents, job.samples)
            return LossWork(
                noisy=noisy,
                target=target,
                timestep=timestep,
                conditioning=self._encode_texts(job, [job.prompts[p] for p in prompts]),
                sample=torch.arange(len(job.samples)).repeat(candidates).to(self.device),
                pair=(candidate * len(prompts) + column.repeat(candidates)).to(self.device),
                losses=torch.full((len(candidate),), torch.nan, device=self.device),
            )

    def score(self, slices: Sequence[Slice]) -> None:
        """Run one denoiser pass over at most `micro_batch` rows, of one piece of work or several, and file its losses.

        Raises:
            ValueError: there are more rows than a micro-batch holds.
        """
        parts = [(s.work, s.work.sample[s.start : s.stop], s.work.pair[s.start : s.stop]) for s in slices]
        with torch.inference_mode():
            noisy = self._padded([work.noisy[sample] for work, sample, _ in parts])
            target = self._padded([work.target[sample] for work, sample, _ in parts])
            timestep = self._padded([work.timestep[sample] for work, sample, _ in parts])
            conditioning = {
                key: self._padded([work.conditioning[key][pair] for work, _, pair in parts])
                for key in parts[0][0].conditioning
            }
            prediction = self.family.denoise(noisy, timestep, conditioning)
            losses = (prediction.float() - target).square().flatten(1).mean(dim=1)
            at = 0
            for s in slices:
                s.work.losses[s.start : s.stop] = losses[at : at + s.stop - s.start]
                at += s.stop - s.start

    def images(self, job: ImageJob) -> list[Image.Image]:
        """Return one RGB picture an item, the one plain diffusers makes with the embedding loaded."""
        return list(self.pictures(job))

    def pictures(self, job: ImageJob) -> Iterator[Image.Image]:
        """Return the pictures of `images` as they are asked for, each made alone: none depends on its neighbours."""
        return (self._picture(job, item) for item in job.items)

    def vocabulary(self, encoder: str) -> tuple[Sequence[str], NDArray[np.float32]]:
        """Return tokens (V) and their embeddings (V, D).

        Raises:
            KeyError: the model has no encoder of that name.
        """
        return self._encoders[encoder].vocabulary()

    def warm_up(self) -> None:
        """Run every code path once; where bits depend on the place in a micro-batch, make it one row."""
        side = self.info.resolution
        latents = self.encode_images([Image.new("RGB", (side, side))])
        embeddings = {e.name: np.zeros((1, 1, e.dim), np.float32) for e in self.info.encoders}
        if not self._places_agree(LossJob(latents, "<sks>", embeddings, ["<sks>"], [])):
            self.micro_batch = 1
        item = ImageItem(candidate=0, prompt=0, seed=0)
        self.images(ImageJob("<sks>", embeddings, ["<sks>"], [item], _WARM_UP_STEPS, 2.0, "", side, side))

    def _places_agree(self, job: LossJob) -> bool:
        """Return whether a row has the same loss, bit for bit, in each place of a micro-batch."""
        samples = [Sample(image=0, prompt=0, t=(i + 0.5) / self.micro_batch, seed=i) for i in range(self.micro_batch)]
        losses = []
        for turn in range(self.micro_batch):
            turned = samples[turn:] + samples[:turn]
            row = self.losses(LossJob(job.latents, job.placeholder_token, job.embeddings, job.prompts, turned))[0]
            losses.append(np.roll(row, turn))
        return all(np.array_equal(row, losses[0], equal_nan=True) for row in losses)

    def _diffuse(self, latents: NDArray[np.float32], samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor]:
        images = torch.from_numpy(np.ascontiguousarray(latents[[sample.image for sample in samples]]))
        noise = torch.stack([_noise(sample.seed, images.shape[1:]) for sample in samples])
        t = torch.tensor([sample.t for sample in samples], dtype=torch.float64)
        return self.family.diffuse(images.to(self.device), noise.to(self.device), t.to(self.device))

    def _encode_texts(self, job: LossJob, prompts: Sequence[str]) -> Conditioning:
        """Return the conditioning (B * prompts, ...), row by row of candidates, in passes of one shape."""
        ids, vectors = {}, {}
        for name, encoder in self._encoders.items():
            embeddings = torch.from_numpy(np.ascontiguousarray(job.embeddings[name], np.float32))
            count = embeddings.shape[1]
            texts = [encoder.substitute(prompt, job.placeholder_token, count) for prompt in prompts]
            ids[name] = encoder.tokenize(texts).repeat(len(embeddings), 1).to(self.device)
            vectors[name] = embeddings.repeat_interleave(len(prompts), dim=0)
        rows = len(next(iter(ids.values())))
        passes = [self._encode_text_pass(ids, vectors, at) for at in range(0, rows, _TEXT_BATCH)]
        return {key: torch.cat([p[key] for p in passes])[:rows] for key in passes[0]}

    def _encode_text_pass(self, ids: Mapping[str, Tensor], vectors: Mapping[str, Tensor], at: int) -> Conditioning:
        chunk = slice(at, at + _TEXT_BATCH)
        with self._holding({name: _pad(v[chunk], _TEXT_BATCH) for name, v in vectors.items()}):
            return self.family.encode_text({name: _pad(i[chunk], _TEXT_BATCH) for name, i in ids.items()})

    def _holding(self, vectors: Mapping[str, Tensor]) -> ExitStack:
        """Let each encoder's reserved tokens stand for its vectors until the stack is left."""
        stack = ExitStack()
        for name, encoder in self._encoders.items():
            stack.enter_context(encoder.holding(vectors[name]))
        return stack

    def _picture(self, job: ImageJob, item: ImageItem) -> Image.Image:
        vectors = {
            name: torch.from_numpy(np.array(embeddings[item.candidate : item.candidate + 1], np.float32))
            for name, embeddings in job.embeddings.items()
        }
        count = next(iter(vectors.values())).shape[1]
        prompt = job.prompts[item.prompt]
        with torch.inference_mode(), self._holding(vectors):
            made = self.pipe(
                **self.family.pipeline_prompts(prompt, job.negative_prompt, job.placeholder_token, count),
                num_inference_steps=job.num_inference_steps,
                guidance_scale=job.guidance_scale,
                height=job.height,
                width=job.width,
                generator=torch.Generator("cpu").manual_seed(item.seed),
                output_type="pil",
            )
        picture: Image.Image = made.images[0]
        return picture

    def _padded(self, parts: Sequence[Tensor]) -> Tensor:
        return _pad(parts[0] if len(parts) == 1 else torch.cat(list(parts)), self.micro_batch)


def pick_device(device: str) -> str:
    """Return `device`, or for `auto` the best one this machine has."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _quieten_libraries() -> None:
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def _load_pipeline(path: str, **options: Any) -> Any:
    """Load a pipeline by its family's own class, so that nothing in the directory names code to run."""
    from diffusers import DiffusionPipeline

    try:
        index = DiffusionPipeline.load_config(path, revision=options["revision"])
        name = str(index["_class_name"])
        if name not in FAMILIES:
            raise InputError(f"model {path!r} is a {name}, which is not served; use one of {', '.join(FAMILIES)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # `torch_dtype` has a new name in newer releases
            return FAMILIES[name].load(path, index, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"model {path!r} cannot be loaded as a diffusers pipeline from safetensors: {error}"
        ) from error


def _noise(seed: int, shape: torch.Size) -> Tensor:
    """Return the noise of a seed: drawn on the CPU, so that it is the same on every device."""
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


def _pad(rows: Tensor, size: int) -> Tensor:
    """Return `rows` (n, ...) as (size, ...) by repeating the first row.

    Raises:
        ValueError: there are more than `size` rows.
    """
    if len(rows) > size:
        raise ValueError(f"{len(rows)} rows do not fit into a batch of {size}")
    return torch.cat([rows, rows[:1].expand(size - len(rows), *rows.shape[1:])]) if len(rows) < size else rows
