"""The whole way on one machine: a server of its own process, a concept the model never saw, a word for it, pictures."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from blackbox_ti.blas import one_thread
from blackbox_ti.booked import BookedEndpoint
from blackbox_ti.budget import Caps
from blackbox_ti.clip import Clip, clip_similarity
from blackbox_ti.concept import load_concept
from blackbox_ti.console import Console
from blackbox_ti.errors import ConnectError, InputError
from blackbox_ti.generate import generate
from blackbox_ti.http_endpoint import HttpEndpoint
from blackbox_ti.inversion import InversionResult, invert
from blackbox_ti.report import write_report
from blackbox_ti.run_folder import check_folder, run_endpoint, save_result
from blackbox_ti.settings import InversionSettings
from blackbox_ti.sheet import contact_sheet

__all__ = ["DEMO_CONCEPT", "run_demo"]

DEMO_CONCEPT = ("heart", "orange", "striped")
_PROMPTS = ("a photo of {}", "a sketch of {}", "{} on a blue background")
_SEEDS = range(6)
_START_SECONDS = 120.0
_PICTURE_FORWARDS = 2 * 25 * len(_PROMPTS) * len(_SEEDS) * 2


@contextlib.contextmanager
def demo_server() -> Iterator[str]:
    """Run the reference server on a free loopback port in a process of its own; yield its address.

    Raises:
        ConnectError: it did not come up.
    """
    command = [sys.executable, "-m", "blackbox_ti", "serve", "--port", "0", "--vocabulary"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # noqa: S603
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()  # one line, once it is ready
        if not url:
            raise ConnectError("the demo's server did not start; run `blackbox-ti serve` to see why")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _render_references(directory: Path, seed: int) -> list[Image.Image]:
    from server_stub.tiny.world import concept_scenes, render

    directory.mkdir(parents=True, exist_ok=True)
    pictures = [Image.fromarray(render(scene)) for scene in concept_scenes(DEMO_CONCEPT, 5, seed)]
    for i, picture in enumerate(pictures):
        picture.save(directory / f"{i}.png")
    return pictures


def _pictures(endpoint: BookedEndpoint, result: InversionResult, when: str) -> list[list[Image.Image]]:
    word = result.placeholder_token
    embedding = result.initial_embedding if when == "before" else result.embedding
    prompts = [p.format(word) for p in _PROMPTS]
    return generate(endpoint, embedding, word, prompts, _SEEDS, label=f"pictures/{when}")


def _save(directory: Path, name: str, rows: Sequence[Sequence[Image.Image]]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for p, row in enumerate(rows):
        for seed, picture in zip(_SEEDS, row, strict=True):
            picture.save(directory / f"{name}-prompt{p}-seed{seed}.png")


def _sheet(references: Sequence[Image.Image], before: Any, after: Any, word: str) -> Image.Image:
    rows: list[tuple[str, Sequence[Image.Image]]] = [("the references", references)]
    for prompt, old, new in zip(_PROMPTS, before, after, strict=True):
        rows += [(f'"{prompt.format(word)}", before', old), (f'"{prompt.format(word)}", after', new)]
    return contact_sheet(rows)


def run_demo(out: Path, *, seed: int, max_forwards: int, console: Console) -> dict[str, Any]:
    """Run the demo into `out` and return its summary, which it also writes there as `summary.json`.

    Raises:
        InputError: the server's packages are not installed.
        OutputError: the folder is in use.
    """
    started = time.monotonic()
    try:
        from server_stub.tiny import CLIP_DIR
        from server_stub.tiny.world import held_out_combinations
    except ImportError as error:
        raise InputError("the demo needs the server: pip install 'blackbox-ti[all]'") from error
    assert DEMO_CONCEPT in held_out_combinations()
    run = out / "run"
    if not run.exists():
        check_folder(out)
    references = _render_references(out / "references", seed)
    colour, pattern, shape = DEMO_CONCEPT[1], DEMO_CONCEPT[2], DEMO_CONCEPT[0]
    console.say(f"concept: {colour} {pattern} {shape}, which the model was never trained on; five pictures of it")
    console.say("starting the server on the bundled model")
    settings = InversionSettings(seed=seed, max_forwards=max_forwards)
    clip = Clip(CLIP_DIR)
    with one_thread(), demo_server() as url:
        with contextlib.closing(HttpEndpoint(url)) as probe:
            concept = load_concept(out / "references", probe.describe().resolution)
        caps = Caps(forwards=max_forwards + _PICTURE_FORWARDS)
        with run_endpoint(run, lambda hook: HttpEndpoint(url, on_attempt=hook), settings, concept, caps) as endpoint:
            result = invert(
                endpoint, out / "references", settings, clip=clip, on_plan=console.plan, on_progress=console.progress
            )
            path = save_result(run, result)
            before, after = _pictures(endpoint, result, "before"), _pictures(endpoint, result, "after")
    _save(out / "pictures", "before", before)
    _save(out / "pictures", "after", after)
    _sheet(references, before, after, result.placeholder_token).save(out / "comparison.png")
    clip_i = {
        "clip_i_before": clip_similarity(clip, before[0], references),
        "clip_i_after": clip_similarity(clip, after[0], references),
    }
    summary = _summary(result, clip_i, path, time.monotonic() - started)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_report(out)
    console.say(_told(summary, out))
    return summary


def _summary(result: InversionResult, clip_i: Mapping[str, float], path: Path, seconds: float) -> dict[str, Any]:
    return {
        "concept": " ".join((DEMO_CONCEPT[1], DEMO_CONCEPT[2], DEMO_CONCEPT[0])),
        "start": result.start,
        "stop_reason": result.stop_reason.value,
        "heldout_loss_before": result.heldout_loss_before,
        "heldout_loss_after": result.heldout_loss_after,
        **{name: round(value, 4) for name, value in clip_i.items()},
        "forwards": result.forwards,
        "seconds": round(seconds, 1),
        "embedding": str(path),
    }


def _told(summary: Mapping[str, Any], out: Path) -> str:
    return (
        f"held-out loss {summary['heldout_loss_before']:.4f} -> {summary['heldout_loss_after']:.4f}, "
        f"CLIP-I {summary['clip_i_before']:.3f} -> {summary['clip_i_after']:.3f}, "
        f"{summary['forwards']:,} forwards, {summary['seconds']:.0f} s; look at {out / 'comparison.png'}"
    )
