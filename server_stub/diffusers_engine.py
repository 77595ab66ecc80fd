"""The engine over diffusers: losses in fixed-shape micro-batches, pictures by the model's own pipeline.

Only the one shape that losses need is compiled, where that is asked for: pictures of any size stay plain.

Batch invariance: every pass of the denoiser has the same shape and strides, `micro_batch` rows, the last one of a
request padded, and so has every pass of a text encoder. Kernels are chosen by shape and strides, so a row's bits depend
neither on how many other rows there are nor on what they hold; `warm_up` checks on this very machine that they don't
depend on the row's place either. Where it finds that half as many rows, or a quarter and so on, give the same bits as
well, few rows are scored in such a smaller pass.

What passes of one request share is run once: the denoiser's part before the text once a sample, its keys and values of
the text once a text. That too is so only where warm-up finds the same bits, and not in compiled passes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal, Self

import diffusers.utils.logging as diffusers_logging
import numpy as np
import torch
import transformers.utils.logging as transformers_logging
from numpy.typing import NDArray
from PIL import Image

from blackbox_ti.errors import InputError
from blackbox_ti.wire import ImageItem
from server_stub.engine import EngineInfo, ImageJob, LossJob, Slice
from server_stub.families import FAMILIES, Family
from server_stub.fingerprint import fingerprint
from server_stub.loss_work import LossWork, pad
from server_stub.placement import DTYPES, Placement, compiled, marked, place
from server_stub.stem import StemKeeper
from server_stub.text_branch import TextBranch
from server_stub.tiny import PIPELINE_DIR
from server_stub.warm_up import agreeing_passes, measured_micro_batch, places_agree, share, warm_pictures

__all__ = ["DiffusersEngine", "MicroBatch"]

_MICRO_BATCH: Final = 32
_LARGE_ON_CPU_MICRO_BATCH: Final = 4
_LARGE: Final = 100_000_000
_TEXT_PASSES_A_VISIT: Final = 16

MicroBatch = int | Literal["auto"] | None


class DiffusersEngine:
    """A diffusers pipeline behind the `Engine` protocol, brought into the form of `placement`, by default as it is."""

    def __init__(
        self,
        pipe: Any,
        *,
        model: str = "",
        micro_batch: MicroBatch = None,
        resolution: int | None = None,
        placement: Placement | None = None,
    ) -> None:
        pipe.set_progress_bar_config(disable=True)
        self.placement = placement or Placement(device=str(pipe.device))
        identity = marked(fingerprint(pipe), self.placement)
        self.pipe = pipe
        self.device = place(pipe, self.placement)
        self._measures = micro_batch == "auto"
        self.family: Family = FAMILIES[type(pipe).__name__](pipe, resolution, self.device)
        self.denoise = self.family.denoise
        self.micro_batch = micro_batch if isinstance(micro_batch, int) else self._usual_micro_batch()
        self._smaller: tuple[int, ...] = ()
        self.branch: TextBranch | None = None
        self.stems: StemKeeper | None = None
        self._encoders = {encoder.name: encoder for encoder in self.family.encoders}
        self._info = self._describe(model or type(pipe).__name__, identity)

    @classmethod
    def load(
        cls,
        model: str | Path = "tiny",
        *,
        device: str = "auto",
        dtype: str = "float32",
        micro_batch: MicroBatch = None,
        resolution: int | None = None,
        channels_last: bool = False,
        compile: bool = False,  # noqa: A002 - torch's own word for it
        cuda_graphs: bool = False,
        int8: bool = False,
        offload: bool = False,
        allow_pickle: bool = False,
        revision: str | None = None,
        variant: str | None = None,
    ) -> Self:
        """Return the engine of a local diffusers directory, a hub id, or the bundled model, `tiny`.

        `micro_batch` is the number of rows of a denoiser pass: a number, by default one for the kind of device, or
        `auto` to measure it at warm-up, which another start of the server may settle differently, and with it the last
        bits of its losses. `resolution` is in pixels, by default the model's own. `channels_last` stores the
        denoiser's convolutions that way, which some devices prefer. The other forms are `Placement`'s; `revision` and
        `variant` choose among a model's files.

        Weights come from safetensors files, unless `allow_pickle` lets pickled ones in as well. The libraries' warnings
        and progress bars are turned off for the process: warnings quote prompts.

        Raises:
            InputError: the model cannot be loaded, is of a family not served, or a setting makes no sense.
        """
        placement = Placement(
            device=device,
            dtype=dtype,
            channels_last=channels_last,
            compile=compile,
            cuda_graphs=cuda_graphs,
            int8=int8,
            offload=offload,
        ).resolved()
        _check(model, micro_batch, resolution, revision)
        _quieten_libraries()
        path = str(PIPELINE_DIR) if model == "tiny" else str(model)
        options = {"revision": revision, "variant": variant, "use_safetensors": None if allow_pickle else True}
        pipe = _load_pipeline(path, torch_dtype=DTYPES[dtype], **options)
        name = _public_name(model)
        return cls(pipe, model=name, micro_batch=micro_batch, resolution=resolution, placement=placement)

    @property
    def info(self) -> EngineInfo:
        """The model's share of the model card."""
        return self._info

    def _usual_micro_batch(self) -> int:
        """Return a size known from the model alone, so that every start of a server gives the same bits.

        Small denoisers are bound by the cost of starting each operation; on a CPU, large ones gain nothing from rows.
        """
        weights = sum(parameter.numel() for parameter in self.family.denoiser.parameters())
        return _LARGE_ON_CPU_MICRO_BATCH if self.device.type == "cpu" and weights > _LARGE else _MICRO_BATCH

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
        return torch.cat(latents).contiguous().numpy()

    def losses(self, job: LossJob) -> NDArray[np.float32]:
        """Return per-sample losses (B, n): the mean squared error of the denoiser's prediction, in float32."""
        work = self.prepare(job)
        for start in range(0, work.rows, self.micro_batch):
            self.score([Slice(work, start, min(start + self.micro_batch, work.rows))])
        return self.result(work)

    def prepare(self, job: LossJob) -> LossWork:
        """Return the job's work: its samples diffused, once for all candidates, its texts still to be encoded."""
        with torch.inference_mode():
            ahead = _TEXT_PASSES_A_VISIT if self.placement.offload else 1
            return LossWork(self.family, job, self.device, ahead=ahead, branch=self.branch)

    def score(self, slices: Sequence[Slice]) -> None:
        """Run one denoiser pass over at most `micro_batch` rows, of one piece of work or several, and keep its losses.

        Raises:
            ValueError: there are more rows than a micro-batch holds.
        """
        with torch.inference_mode():
            size = self._rows_of_pass(sum(s.stop - s.start for s in slices))
            inputs = [s.work.inputs(s.start, s.stop) for s in slices]
            noisy, target, timestep = (
                pad([getattr(part, name) for part in inputs], size) for name in ("noisy", "target", "timestep")
            )
            conditioning = {
                key: pad([part.conditioning[key] for part in inputs], size) for key in inputs[0].conditioning
            }
            with ExitStack() as shared:
                if self.stems is not None:
                    shared.enter_context(self.stems.given(slices, conditioning, size))
                if self.branch is not None:
                    shared.enter_context(self.branch.given(conditioning))
                prediction = self.denoise(noisy, timestep, conditioning)
            losses = (prediction.float() - target).square().flatten(1).mean(dim=1)
            at = 0
            for s in slices:
                s.work.keep(s.start, losses[at : at + s.stop - s.start])
                at += s.stop - s.start

    def _rows_of_pass(self, rows: int) -> int:
        """Return the size of the smallest pass that holds `rows` and gives the bits of a whole micro-batch."""
        return min((size for size in self._smaller if rows <= size < self.micro_batch), default=self.micro_batch)

    def result(self, work: LossWork) -> NDArray[np.float32]:
        """Return per-sample losses (B, n) of work whose rows are all scored."""
        return work.result()

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
        """Run every code path once, and settle the micro-batch: measured if asked for, halved until places agree.

        Sizes are measured before compilation, which takes much longer than any of them.
        """
        warm_pictures(self)
        if self._measures:
            self.micro_batch = measured_micro_batch(self)
        self.denoise = compiled(self.family.denoise, self.placement)
        while self.micro_batch > 1 and not places_agree(self):
            self.micro_batch //= 2
        if not self.placement.compile:
            self._smaller = agreeing_passes(self)
            share(self)

    def _picture(self, job: ImageJob, item: ImageItem) -> Image.Image:
        vectors = {
            name: torch.from_numpy(np.array(embeddings[item.candidate : item.candidate + 1], np.float32))
            for name, embeddings in job.embeddings.items()
        }
        count = next(iter(vectors.values())).shape[1]
        prompt = job.prompts[item.prompt]
        with torch.inference_mode(), self.family.holding(vectors):
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


def _public_name(model: str | Path) -> str:
    """Return the model's name for strangers: of a local directory the last part, so that no path is told."""
    return Path(model).resolve().name if Path(model).exists() else str(model)


def _check(model: str | Path, micro_batch: MicroBatch, resolution: int | None, revision: str | None) -> None:
    if revision is not None and (model == "tiny" or Path(model).exists()):
        raise InputError(f"a revision is of a hub id, and {_public_name(model)} is on this machine; leave it out")
    if isinstance(micro_batch, int) and micro_batch < 1:
        raise InputError(f"a micro-batch has at least one row, not {micro_batch}")
    if resolution is not None and (resolution < 8 or resolution % 8):
        raise InputError(f"a resolution is a multiple of 8 pixels, not {resolution}")


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
