"""The command line: a few lines over the public API for each job. Data on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from blackbox_ti import audit, doctor, report
from blackbox_ti.blas import one_thread
from blackbox_ti.budget import Caps
from blackbox_ti.clip import Clip
from blackbox_ti.concept import load_concept
from blackbox_ti.connection_args import add_connection, connect
from blackbox_ti.console import Console
from blackbox_ti.embedding import load_embedding, stored_placeholder
from blackbox_ti.errors import BlackboxTIError, InputError
from blackbox_ti.generate import generate
from blackbox_ti.inversion import InversionResult, invert
from blackbox_ti.prepare import choose_scorer, prepare
from blackbox_ti.run_folder import (
    check_folder,
    recall_command,
    record_command,
    result_record,
    run_endpoint,
    save_result,
)
from blackbox_ti.settings import DEFAULT_FORWARDS, InversionSettings

__all__ = ["main"]

_INTERRUPTED = 130


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def _clip(name: str | None) -> Clip | None:
    """The CLIP by name; `tiny` is the bundled model's own."""
    if name is None:
        return None
    if name != "tiny":
        return Clip(name)
    from server_stub.tiny import CLIP_DIR

    return Clip(CLIP_DIR)


_KNOBS: dict[str, tuple[str, type, str]] = {
    "initializer_token": ("--initializer-token", str, "word to start from, or auto (default)"),
    "num_vectors": ("--num-vectors", int, "token vectors the word is made of (default 1)"),
    "learnable_property": ("--learnable-property", str, "object (default) or style"),
    "max_forwards": ("--max-forwards", int, f"cap on forwards (default {DEFAULT_FORWARDS})"),
    "seed": ("--seed", int, "seed of everything random (default 0)"),
    "preset": ("--preset", str, "named settings: default, or paper for its reference code's; other options override"),
    "subspace": ("--subspace", str, "pca, random or full"),
    "dimension": ("--dimension", int, "search coordinates a vector"),
    "popsize": ("--popsize", int, "candidates a generation"),
    "samples": ("--samples", int, "samples a candidate"),
    "sigma": ("--sigma", float, "first step size, in spreads of the vocabulary (default 1, about a plain word 4)"),
    "covariance": ("--covariance", str, "full (default) or diagonal"),
    "t_min": ("--t-min", float, "earliest timestep asked, 0 to 1"),
    "t_max": ("--t-max", float, "latest timestep asked, 0 to 1"),
    "timestep_sampling": ("--timestep-sampling", str, "adaptive (default): more where candidates differ; or uniform"),
    "canary_every": ("--canary-every", int, "generations between checks for a swapped model, 0 for none"),
    "heldout": ("--heldout", int, "samples in the bank the answer is judged on"),
    "heldout_checks": ("--heldout-checks", int, "how often the mean is judged on it"),
    "patience": ("--patience", int, "judgements without a gain that end the search (default 6)"),
    "answer": ("--answer", str, "heldout (default), mean, or luckiest of the last generation"),
    "averaging": ("--averaging", float, "share of the generations whose means the answer averages (default 0.25)"),
    "mirrored": ("--mirrored", bool, "candidates in pairs about the mean"),
    "rotate_every": ("--rotate-every", int, "generations a bank is kept for (default 1)"),
    "prompts_at_once": ("--prompts-at-once", int, "prompts in a generation's bank (default 2)"),
    "common_noise": ("--common-noise", bool, "all candidates of a generation on one bank (default)"),
    "whiten": ("--whiten", bool, "principal axes as long as the words' spread (default)"),
    "add_mean": ("--add-mean", bool, "move the origin by the mean word"),
    "race": ("--race", int, "starts compared before the search (default 16)"),
    "phrases": ("--phrases", int, "phrases among them, each made one word by the host's text encoder (default 3)"),
    "extensions": ("--extensions", int, "how often the race's winner is extended at most (default 6)"),
    "race_samples": ("--race-samples", int, "samples each of them is asked (default 16, or 32)"),
    "attention_temperature": ("--attention-temperature", float, "of the first start's softmax (default 0.02)"),
    "attention_norm": ("--attention-norm", str, "length of the first start: words (default) or unit"),
    "objective": ("--objective", str, "loss, images, or auto (default): loss where the host offers it"),
    "scorer": ("--scorer", str, "package.module:function that judges pictures; larger is better (default: --clip)"),
    "search_steps": ("--search-steps", int, "steps a picture while searching (default 8)"),
    "search_guidance_scale": ("--search-guidance-scale", float, "guidance while searching (default 3; 1 for none)"),
    "search_size": ("--search-size", int, "pixels a side while searching (default: the model's, at most 512)"),
    "image_weight": ("--image-weight", float, "weight of likeness to the pictures in CLIP's score (default 1)"),
    "text_weight": ("--text-weight", float, "weight of likeness to the prompt in CLIP's score (default 0)"),
}


def _settings(args: argparse.Namespace) -> InversionSettings:
    given = {name: getattr(args, name) for name in _KNOBS if getattr(args, name) is not None}
    try:
        return InversionSettings(placeholder_token=args.placeholder_token, **given)
    except ValidationError as error:
        first = error.errors()[0]
        option = _KNOBS.get(str(first["loc"][0]) if first["loc"] else "", ("the settings",))[0]
        raise InputError(f"{option}: {first['msg']}") from error


def _add_optimize(commands: Any) -> None:
    parser = commands.add_parser("optimize", help="learn a word from pictures")
    add_connection(parser, required=False)
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of 1 to 20 pictures")
    parser.add_argument("--placeholder-token", default="<sks>", help="the new word (default <sks>)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the run, empty or its own")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in this folder, as it was begun")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and its exact cost; nothing is charged")
    parser.add_argument("--max-queries", type=int, metavar="N", help="cap on candidates scored and pictures made")
    parser.add_argument("--max-price", type=float, metavar="X", help="cap on money, in the host's currency")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="cap on wall time, sessions added up")
    parser.add_argument("--initial-embedding", type=Path, metavar="FILE", help="start from a learned_embeds file")
    parser.add_argument("--clip", metavar="NAME", help="CLIP to start and judge by: a directory, ARCH:WEIGHTS, or tiny")
    parser.add_argument("--keep-concept", action="store_true", help="leave the pictures' latents on the host")
    for name, (flag, kind, text) in _KNOBS.items():
        if kind is bool:
            parser.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            parser.add_argument(flag, dest=name, type=kind, default=None, help=text)
    _add_output(parser)
    parser.set_defaults(run=_optimize)


def _optimize(args: argparse.Namespace) -> int:
    if args.resume is not None:
        recall_command(args.resume, args)
    if None in (args.endpoint, args.images, args.out):
        raise InputError("give --endpoint, --images and --out, or --resume DIR")
    console = Console(quiet=args.quiet)
    settings = _settings(args)
    clip = _clip(args.clip)
    if args.dry_run:
        return _dry_run(args, settings, clip)
    check_folder(args.out)
    with contextlib.closing(connect(args)) as probe:
        card = probe.describe()
        concept = load_concept(args.images, card.resolution)
        scorer = choose_scorer(settings, card, concept, clip)
    record_command(args.out, args)
    caps = _caps(args, settings)
    asked = run_endpoint(args.out, lambda hook: connect(args, on_attempt=hook), settings, concept, caps)
    with one_thread(), asked as endpoint:
        result = invert(
            endpoint,
            args.images,
            settings,
            clip=clip,
            scorer=scorer,
            initial_embedding=args.initial_embedding,
            keep_concept=args.keep_concept,
            on_plan=console.plan,
            on_progress=console.progress,
        )
    path = save_result(args.out, result)
    report.write_report(args.out)
    if args.json:
        print(json.dumps({**result_record(result), "embedding": str(path)}))
    else:
        print(path)
    console.say(_told(result))
    return _INTERRUPTED if result.stop_reason == "interrupted" else 0


def _told(result: InversionResult) -> str:
    what, before, after = "loss", result.heldout_loss_before, result.heldout_loss_after
    if result.objective == "images":
        what, before, after = "score", result.heldout_score_before, result.heldout_score_after
    held = "" if before is None or after is None else f"held-out {what} {before:.4f} -> {after:.4f}, "
    return f"{held}{result.forwards:,} forwards, {result.seconds:.0f} s, {result.stop_reason.value}"


def _caps(args: argparse.Namespace, settings: InversionSettings) -> Caps:
    price = None if args.max_price is None else round(args.max_price * 1e6)
    return Caps(
        forwards=settings.max_forwards, queries=args.max_queries, price_micros=price, wall_seconds=args.max_seconds
    )


def _dry_run(args: argparse.Namespace, settings: InversionSettings, clip: Clip | None) -> int:
    with contextlib.closing(connect(args)) as endpoint:
        ready = prepare(endpoint, args.images, settings, clip=clip, initial_embedding=args.initial_embedding)
    cost = ready.plan.cost(ready.card)
    record = dataclasses.asdict(ready.plan) | {f"total_{k}": v for k, v in dataclasses.asdict(cost).items()}
    price = f"{cost.price_micros / 1e6:.6f} {ready.card.prices.currency}"
    told = f"{ready.plan.describe()}\nat most {cost.forwards:,} forwards, {cost.queries:,} queries, {price}"
    print(json.dumps(record) if args.json else told)
    return 0


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser("generate", help="make pictures with a learned word")
    add_connection(parser)
    parser.add_argument("--embedding", type=Path, required=True, metavar="FILE", help="a learned_embeds.safetensors")
    parser.add_argument(
        "--prompt", action="append", required=True, help="prompt with the placeholder in it; repeatable"
    )
    parser.add_argument("--placeholder-token", help="the word in the prompts (default: as the file says)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first picture (default 0)")
    parser.add_argument("--count", type=int, default=4, help="pictures a prompt (default 4)")
    parser.add_argument("--num-inference-steps", type=int, default=25)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--negative-prompt", default="")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    _add_output(parser)
    parser.set_defaults(run=_generate)


def _generate(args: argparse.Namespace) -> int:
    if args.count < 1:
        raise InputError("--count is at least 1")
    with contextlib.closing(connect(args)) as endpoint:
        embedding = load_embedding(args.embedding, endpoint.describe().encoders)
        word = args.placeholder_token or stored_placeholder(args.embedding)
        seeds = range(args.seed, args.seed + args.count)
        pictures = generate(
            endpoint,
            embedding,
            word,
            args.prompt,
            seeds,
            num_inference_steps=args.num_inference_steps,
            guidance_scale=args.guidance_scale,
            negative_prompt=args.negative_prompt,
        )
    args.out.mkdir(parents=True, exist_ok=True)
    paths = []
    for p, row in enumerate(pictures):
        for seed, picture in zip(seeds, row, strict=True):
            paths.append(args.out / f"prompt{p}-seed{seed}.png")
            picture.save(paths[-1])
    print(json.dumps({"pictures": [str(p) for p in paths]}) if args.json else "\n".join(map(str, paths)))
    return 0


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser("demo", help="the whole way on this machine, with the bundled model")
    parser.add_argument(
        "--out", type=Path, default=Path("blackbox-ti-demo"), metavar="DIR", help="folder for the results"
    )
    parser.add_argument("--max-forwards", type=int, default=DEFAULT_FORWARDS)
    parser.add_argument("--seed", type=int, default=0)
    _add_output(parser)
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from blackbox_ti.demo import run_demo

    console = Console(quiet=args.quiet)
    summary = run_demo(args.out, seed=args.seed, max_forwards=args.max_forwards, console=console)
    print(json.dumps(summary) if args.json else args.out / "comparison.png")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="blackbox-ti", description="Textual inversion with forward passes only.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_optimize(commands)
    _add_generate(commands)
    _add_demo(commands)
    audit.add_parser(commands)
    doctor.add_parser(commands)
    report.add_parser(commands)
    if find_spec("fastapi") and find_spec("diffusers"):
        from server_stub import cli as server_cli

        server_cli.add_parsers(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or the exit code of the error that ended it (see `blackbox_ti.errors`)."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except BlackboxTIError as error:
        print(f"blackbox-ti: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("blackbox-ti: interrupted", file=sys.stderr)
        return _INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
