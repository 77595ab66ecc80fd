"""Image mode beside loss mode on the bundled model: `python -m tests.benchmarks.image_mode [--json FILE]`.

Both learn the same concepts, which the model was never trained on, from the same start within the same forwards. Each
answer is then measured outside its budget: its loss on one bank of `--bank` samples, its CLIP-I in pictures of full quality
against references that the search has not seen, and how often the small CLIP names its shape, colour and pattern right.
That CLIP is also image mode's scorer, so its own figures flatter image mode; the loss does not.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blackbox_ti.clip import Clip, clip_similarity
from blackbox_ti.concept import load_concept
from blackbox_ti.evaluation import LossEvaluator
from blackbox_ti.generate import generate
from blackbox_ti.inversion import InversionResult, invert
from blackbox_ti.objective import prompts_for
from blackbox_ti.settings import InversionSettings
from blackbox_ti.subspace import Embedding
from server_stub.diffusers_engine import DiffusersEngine
from server_stub.in_process import InProcessEndpoint
from server_stub.tiny import CLIP_DIR
from server_stub.tiny.naming import Namer
from server_stub.tiny.world import concept_scenes, held_out_combinations, render
from tests.benchmarks.machine import machine

__all__ = ["main"]

WORD = "<sks>"
REFERENCE_SEED, UNSEEN_SEED, BANK_SEED = 0, 1_000_003, 7
STEPS, GUIDANCE = 25, 5.0
COLUMNS = ("concept", "objective", "budget", "forwards", "pictures", "seconds", "loss", "clip_i", "named")


def concepts(count: int) -> list[Any]:
    """Return held-out (shape, colour, pattern) combinations, spread over the sorted list of them."""
    held = sorted(held_out_combinations())
    return [held[i * len(held) // count] for i in range(count)]


def renders(concept: Any, count: int, seed: int) -> list[Image.Image]:
    """Render a concept."""
    return [Image.fromarray(render(scene)) for scene in concept_scenes(concept, count, seed)]


class Yardstick:
    """Measures words for one concept, outside every budget."""

    def __init__(self, endpoint: InProcessEndpoint, clip: Clip, concept: Any, *, bank: int, pictures: int) -> None:
        self._endpoint, self._clip, self._concept = endpoint, clip, concept
        self._unseen = renders(concept, 16, UNSEEN_SEED)
        self._pictures = pictures
        self._namer = Namer(clip)
        card = endpoint.describe()
        pngs = load_concept(self._unseen, card.resolution).pngs
        prompts = prompts_for("object", WORD)
        registered = endpoint.register_concept(pngs)
        self._losses = LossEvaluator(endpoint, card, registered, WORD, prompts, images=len(pngs))
        self._bank = self._losses.bank("report", bank, np.random.default_rng(BANK_SEED))

    def measure(self, embedding: Embedding) -> dict[str, float]:
        """Return loss, CLIP-I and the share of attributes named right."""
        one = {name: vectors[None] for name, vectors in embedding.items()}
        loss = self._losses.scores(one, self._bank, "measure").mean(0)
        assert loss is not None
        (pictures,) = generate(
            self._endpoint, embedding, WORD, [f"a photo of a {WORD}"], range(self._pictures),
            num_inference_steps=STEPS, guidance_scale=GUIDANCE,
        )  # fmt: skip
        wanted = dict(zip(("shape", "colour", "pattern"), self._concept, strict=True))
        named = [n[a] == wanted[a] for n in self._namer.name(pictures) for a in wanted]
        clip_i = clip_similarity(self._clip, pictures, self._unseen)
        return {"loss": round(loss, 5), "clip_i": round(clip_i, 4), "named": round(float(np.mean(named)), 3)}

    @property
    def ceiling(self) -> float:
        """CLIP-I of renders of the concept against other renders of it."""
        return clip_similarity(self._clip, renders(self._concept, 16, UNSEEN_SEED + 1), self._unseen)


def learn(
    endpoint: InProcessEndpoint, clip: Clip, concept: Any, budget: int, objective: str, knobs: dict[str, Any]
) -> InversionResult:
    """Learn one word."""
    settings = InversionSettings(max_forwards=budget, objective=objective, **knobs)  # type: ignore[arg-type]
    return invert(endpoint, renders(concept, 5, REFERENCE_SEED), settings, clip=clip)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    return "\n".join([*lines, *("| " + " | ".join(str(row.get(c, "")) for c in COLUMNS) + " |" for row in rows)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concepts", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="+", default=[2000, 5000])
    parser.add_argument("--bank", type=int, default=512, help="samples an answer's loss is measured on")
    parser.add_argument("--pictures", type=int, default=16, help="pictures an answer's CLIP-I is measured on")
    parser.add_argument("--knobs", type=json.loads, default={}, help="settings of both, as JSON")
    parser.add_argument("--only", choices=["loss", "images"], help="leave the other objective out")
    parser.add_argument("--json", type=Path, help="write everything here as well")
    args = parser.parse_args()
    endpoint = InProcessEndpoint(DiffusersEngine.load())
    clip = Clip(CLIP_DIR)
    rows: list[dict[str, Any]] = []
    for concept in concepts(args.concepts):
        yardstick, name = Yardstick(endpoint, clip, concept, bank=args.bank, pictures=args.pictures), " ".join(concept)
        rows.append({"concept": name, "objective": "(unseen renders)", "clip_i": round(yardstick.ceiling, 4)})
        for budget in args.budgets:
            for objective in [args.only] if args.only else ["loss", "images"]:
                started = time.monotonic()
                result = learn(endpoint, clip, concept, budget, objective, args.knobs)
                seconds = round(time.monotonic() - started, 1)
                pictures = result.queries if objective == "images" else 0
                cost = {"forwards": result.forwards, "pictures": pictures, "seconds": seconds, "budget": budget}
                start = {"concept": name, "objective": f"(start: {result.start})"}
                rows.append(start | {"budget": budget} | yardstick.measure(result.initial_embedding))
                rows.append({"concept": name, "objective": objective} | cost | yardstick.measure(result.embedding))
                print(json.dumps(rows[-2:]), flush=True)
    told = {
        "machine": machine(),
        "seeds": [REFERENCE_SEED, UNSEEN_SEED, BANK_SEED],
        "arguments": vars(args) | {"json": str(args.json)},
        "rows": rows,
    }
    if args.json:
        args.json.write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps({k: v for k, v in told.items() if k != "rows"}))
    print(table(rows))


if __name__ == "__main__":
    main()
