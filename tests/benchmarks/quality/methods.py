"""The methods side by side: each learns a word for a subject with so many forwards, and says what it did on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blackbox_ti.endpoint import Endpoint
from blackbox_ti.initialise import Start
from blackbox_ti.inversion import InversionResult, invert
from blackbox_ti.plan import Plan
from blackbox_ti.settings import InversionSettings
from blackbox_ti.subspace import Embedding
from server_stub.in_process import InProcessEndpoint
from tests.benchmarks.quality import gradient, zeroth_order
from tests.benchmarks.quality.subjects import Subject
from tests.benchmarks.quality.watched import EXACT, TRAIL_POINTS, ReplyMode, Watched, thinned
from tests.benchmarks.quality.workbench import Workbench

__all__ = ["METHODS", "REPLY_MODES", "Learned", "Method", "arm", "gradient_at", "zeroth_order_at"]

_NOT_DECISIVE = {"seed", "max_forwards", "placeholder_token", "learnable_property", "objective", "scorer"} | {
    "search_steps", "search_guidance_scale", "search_size", "image_weight", "text_weight",
}  # fmt: skip


@dataclass(frozen=True)
class Learned:
    """What a method ends with: an embedding, or the words a person would use; `trail` is its answer on the way."""

    embedding: Embedding | None
    words: str | None
    forwards: int
    seconds: float
    trail: Sequence[tuple[int, Embedding]]
    told: Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """A way to learn a word; `config` is whatever decides its outcome beside subject, seed and mark."""

    name: str
    config: Mapping[str, Any]
    run: Callable[[Workbench, Subject, int, int], Learned]
    searches: bool = True


class _StartFoundError(Exception):
    def __init__(self, start: Start) -> None:
        super().__init__(start.description)
        self.start = start


def _stop(_plan: Plan, start: Start) -> None:
    raise _StartFoundError(start)


def start_of(
    bench: Workbench, subject: Subject, settings: InversionSettings, *, clip: bool = True
) -> tuple[Start, int]:
    """Return where `invert` would start its search, and the forwards it took to find out."""
    endpoint = InProcessEndpoint(bench.engine)
    try:
        invert(endpoint, subject.references(), settings, clip=bench.clip if clip else None, on_plan=_stop)
    except _StartFoundError as found:
        return found.start, endpoint.usage().forwards
    raise AssertionError("a search begins with its plan")


def _told(result: InversionResult) -> dict[str, Any]:
    return {
        "start": result.start,
        "plan": result.plan.describe(),
        "stop_reason": result.stop_reason.value,
        "settings": result.settings.model_dump(),
        "history": [[p.forwards, p.loss, p.heldout_loss] for p in result.history],
    }


def arm(name: str, reply_mode: ReplyMode = EXACT, **overrides: Any) -> Method:
    """Return the search a user gets, with some of its settings changed, at a host that replies in its own mode."""

    def run(bench: Workbench, subject: Subject, seed: int, mark: int) -> Learned:
        settings = InversionSettings(
            **{"seed": seed, "learnable_property": subject.learnable_property, **overrides, "max_forwards": mark}
        )
        endpoint = Watched(bench.engine, reply_mode)
        hosted: Endpoint = endpoint
        started = time.perf_counter()
        result = invert(hosted, subject.references(), settings, clip=bench.clip, on_progress=endpoint.hear)
        seconds = time.perf_counter() - started
        return Learned(result.embedding, None, result.forwards, seconds, endpoint.trail(), _told(result))

    reply = {} if reply_mode == EXACT else {"reply": f"{reply_mode.mode} {reply_mode.digits}"}
    return Method(name, {**_decisive(overrides), **reply}, run)


def _decisive(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what a search finds, beside those a cell decides."""
    settings = InversionSettings(**overrides).model_dump()
    return {name: value for name, value in settings.items() if name not in _NOT_DECISIVE}


def paper(name: str, **overrides: Any) -> Method:
    """Return the preset `paper`; what its report costs is paid on top, so that all forwards of the mark search."""
    report = 8
    method = arm(name, preset="paper", heldout=report, **overrides)
    return Method(name, method.config, lambda b, s, seed, mark: method.run(b, s, seed, mark + 2 * report))


def gradient_at(rate: float, name: str = "gradient", *, clip: bool = True) -> Method:
    """Return textual inversion by gradients at a learning rate, from our start, or without CLIP from a plain word."""

    def run(bench: Workbench, subject: Subject, seed: int, mark: int) -> Learned:
        start, _ = start_of(bench, subject, _of(subject, seed), clip=clip)
        steps = gradient.train(
            bench, subject, start.embedding, samples=mark, rate=rate, seed=seed, every=mark // TRAIL_POINTS
        )
        return _walked(steps, {"start": start.description, "learning_rate": rate})

    return Method(name, {"learning_rate": rate, "batch": gradient.BATCH, "clip": clip}, run)


def zeroth_order_at(rate: float, name: str = "zeroth-order") -> Method:
    """Return zeroth-order Adam at a learning rate."""

    def run(bench: Workbench, subject: Subject, seed: int, mark: int) -> Learned:
        start, _ = start_of(bench, subject, _of(subject, seed))
        steps = zeroth_order.train(
            bench, subject, start.embedding, forwards=mark, rate=rate, seed=seed, every=mark // TRAIL_POINTS
        )
        return _walked(steps, {"start": start.description, "learning_rate": rate})

    return Method(name, {"learning_rate": rate, "tau": zeroth_order.TAU, "nu": zeroth_order.NU}, run)


def _of(subject: Subject, seed: int) -> InversionSettings:
    return InversionSettings(seed=seed, learnable_property=subject.learnable_property)


def _walked(steps: Iterator[tuple[int, Embedding]], told: dict[str, Any]) -> Learned:
    started = time.perf_counter()
    trail = list(steps)
    forwards, embedding = trail[-1]
    return Learned(embedding, None, forwards, time.perf_counter() - started, thinned(trail), told)


def _started(name: str, *, clip: bool = True, **overrides: Any) -> Method:
    """Return no search at all: the start that `invert` would choose."""

    def run(bench: Workbench, subject: Subject, seed: int, _mark: int) -> Learned:
        settings = InversionSettings(seed=seed, learnable_property=subject.learnable_property, **overrides)
        started = time.perf_counter()
        start, forwards = start_of(bench, subject, settings, clip=clip)
        return Learned(start.embedding, None, forwards, time.perf_counter() - started, [], {"start": start.description})

    return Method(name, {"clip": clip, **_decisive(overrides)}, run, searches=False)


def _spoken(_bench: Workbench, subject: Subject, _seed: int, _mark: int) -> Learned:
    """The words a person would write, in place of a learned word."""
    return Learned(None, subject.words, 0, 0.0, [], {"words": subject.words})


_PAPER_START: dict[str, Any] = {"race": 1, "attention_temperature": 1.0, "attention_norm": "unit"}

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("oracle words", {}, _spoken, searches=False),
        _started("word", clip=False),
        _started("attention, paper", **_PAPER_START),
        _started("attention", race=1),
        _started("race of words", phrases=0),
        _started("start"),
        gradient_at(gradient.LEARNING_RATE),
        gradient_at(gradient.LEARNING_RATE, "gradient, from the word", clip=False),
        paper("paper, pca"),
        paper("paper, random", subspace="random"),
        zeroth_order_at(zeroth_order.LEARNING_RATE),
        arm("ours"),
    )
}

# Measured where they are named: what each reply mode of a host costs the search.
REPLY_MODES: dict[str, Method] = {
    m.name: m
    for m in (
        arm("ours, 4 digits", ReplyMode("rounded", 4)),
        arm("ours, 2 digits", ReplyMode("rounded", 2)),
        arm("ours, ranks alone", ReplyMode("rank")),
    )
}
