"""What the user wants of a run: every knob, its bounds, and the presets."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from blackbox_ti.errors import InputError
from blackbox_ti.evaluation import ObjectiveName
from blackbox_ti.objective import ObjectProperty
from blackbox_ti.wire import ModelCard

__all__ = ["DEFAULT_FORWARDS", "PRESETS", "InversionSettings", "SubspaceName", "objective_of"]

SubspaceName = Literal["pca", "random", "full"]

DEFAULT_FORWARDS: Final = 5000


class InversionSettings(BaseModel):
    """What the user wants; None leaves a knob to the plan. Recorded whole in the result.

    `preset` names settings that hold where nothing else is given (`PRESETS`). `t_min` and `t_max` bound the timesteps
    asked, as shares of the noise schedule; `samples` is the size of a generation's bank; `heldout` that of the bank the
    answer is judged on; `race` how many starts are compared; `phrases` how many phrases CLIP's beam search proposes at
    the start, 0 for none, and `extensions` how often at most the winner is extended. `sigma` is the first step size in
    spreads of the vocabulary; None leaves it to the plan. `whiten` scales principal axes by the words' spread along
    them; without it they have length 1, and `add_mean` moves the origin by the mean word. `timestep_sampling` is
    uniform, or adaptive: more often where candidates' losses differ, weighted so that the mean stays what it was
    (`timesteps.Focus`). Without `common_noise` every candidate of a generation is scored on a bank of its own. `answer`
    is the mean that did best on the held-out bank, the last mean, or the candidate that scored best in the last
    generation; a mean is averaged over the last `averaging` of the generations so far, 0 for none of it.
    `attention_norm` is the length of the cross-attention's result: that of words, or 1. Every `canary_every`
    generations one question is asked again, to notice a model swapped in silence; 0 for never. `objective` is what the
    host is asked for: losses, pictures that `scorer` (`package.module:function`; None for CLIP) judges here, or losses
    where it offers them. While searching, pictures are made in `search_steps` steps at `search_size` pixels;
    `image_weight` and `text_weight` are those of the CLIP score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    placeholder_token: str = "<sks>"  # noqa: S105
    initializer_token: str = "auto"  # noqa: S105
    num_vectors: int = Field(default=1, ge=1, le=16)
    learnable_property: ObjectProperty = "object"
    seed: int = Field(default=0, ge=0, lt=2**63)
    max_forwards: int = Field(default=DEFAULT_FORWARDS, ge=1)
    preset: str = "default"
    subspace: SubspaceName | None = None
    dimension: int | None = Field(default=None, ge=1)
    popsize: int | None = Field(default=None, ge=2)
    samples: int | None = Field(default=None, ge=1)
    sigma: float | None = Field(default=None, gt=0)
    covariance: Literal["full", "diagonal"] = "full"
    mirrored: bool = False
    t_min: float = Field(default=0.0, ge=0, lt=1)
    t_max: float = Field(default=1.0, gt=0, le=1)
    timestep_sampling: Literal["adaptive", "uniform"] = "adaptive"
    rotate_every: int = Field(default=1, ge=1)
    heldout: int | None = Field(default=None, ge=1)
    heldout_checks: int | None = Field(default=None, ge=0)
    race: int = Field(default=16, ge=1)
    phrases: int = Field(default=3, ge=0)
    extensions: int = Field(default=6, ge=0)
    race_samples: int | None = Field(default=None, ge=1)
    patience: int = Field(default=6, ge=1)
    canary_every: int | None = Field(default=None, ge=0)
    prompts_at_once: int = Field(default=2, ge=1)
    common_noise: bool = True
    whiten: bool = True
    add_mean: bool = False
    answer: Literal["heldout", "mean", "luckiest"] = "heldout"
    averaging: float = Field(default=0.25, ge=0, le=1)
    attention_temperature: float = Field(default=0.02, gt=0)
    attention_norm: Literal["words", "unit"] = "words"
    objective: Literal["auto", "loss", "images"] = "auto"
    scorer: str | None = None
    search_steps: int = Field(default=8, ge=1)
    search_guidance_scale: float = Field(default=3.0, ge=0, le=50)
    search_size: int | None = Field(default=None, ge=8, le=4096, multiple_of=8)
    image_weight: float = Field(default=1.0, ge=0)
    text_weight: float = Field(default=0.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        """Fill what is not given from the preset."""
        name = given.get("preset", "default") if isinstance(given, dict) else "default"
        if name not in PRESETS:
            raise ValueError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
        return PRESETS[name] | given if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.t_min >= self.t_max:
            raise ValueError("t_min must be below t_max")
        return self


# The paper's reference code (github.com/feizc/Gradient-Free-Textual-Inversion, `train_inversion.py` and
# `initialize_inversion.py`) at its own defaults; `samples` is its 5 repeats of 5 pictures.
_PAPER: Final[dict[str, Any]] = {
    "subspace": "pca",
    "dimension": 256,
    "popsize": 20,
    "samples": 25,
    "sigma": 1.0,
    "whiten": False,
    "add_mean": True,
    "common_noise": False,
    "timestep_sampling": "uniform",
    "prompts_at_once": 12,
    "race": 1,
    "attention_temperature": 1.0,
    "attention_norm": "unit",
    "answer": "luckiest",
    "canary_every": 0,
}
PRESETS: Final[dict[str, dict[str, Any]]] = {"default": {}, "paper": _PAPER}


def objective_of(settings: InversionSettings, card: ModelCard) -> ObjectiveName:
    """Return what to ask the host for: losses where it offers them, unless told otherwise.

    Raises:
        InputError: the host does not offer it.
    """
    asked = settings.objective
    chosen: ObjectiveName = asked if asked != "auto" else "loss" if "loss" in card.objectives else "images"
    if chosen not in card.objectives:
        offered = " and ".join(card.objectives) or "nothing"
        raise InputError(f"this host does not offer the objective '{chosen}', but {offered}; set --objective")
    return chosen
