"""How to train: every setting with its default, and the recipes that have a name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from convdsl.train.problem import TrainingError

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("plateau", "step", "cosine", "onecycle", "constant")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
STRATEGIES = ("auto", "ddp", "fsdp")
#: learning rates that suit each optimiser where the user names none
RATES = {"sgd": 0.05, "adam": 1e-2, "adamw": 1e-2, "rmsprop": 1e-3}


@dataclass(frozen=True)
class Recipe:
    """The settings of a run.

    epochs: passes over the data. batch: samples a step, over all devices. lr: the greatest
    learning rate; None: what suits the optimiser. weight_decay: of weights, not of biases and
    scales. schedule: of the learning rate. warmup: epochs in which it rises. augment: None: what
    the data set names. ema: decay of the average of the weights that is evaluated and kept, 0 for
    none. early_stop: epochs without a better held-out loss after which to stop, 0 for never.
    clip: greatest norm of the gradient, 0 for any. save_every: steps between checkpoints within
    an epoch, 0 for none. label_smoothing: share of a label spread over all classes; None: 0.1
    where the head can (the held-out loss is always without).
    """

    epochs: int = 30
    batch: int = 64
    lr: float | None = None
    optimizer: str = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.05
    schedule: str = "onecycle"
    warmup: float = 0.0
    precision: str = "fp32"
    augment: tuple[str, ...] | None = None
    label_smoothing: float | None = None
    ema: float = 0.0
    early_stop: int = 0
    clip: float = 1.0
    seed: int = 0
    deterministic: bool = False
    save_every: int = 0

    def __post_init__(self) -> None:
        _among("optimizer", self.optimizer, OPTIMIZERS)
        _among("schedule", self.schedule, SCHEDULES)
        _among("precision", self.precision, PRECISIONS)
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if value is not None and not (
                isinstance(value, int | float) and least <= value <= most
            ):
                raise TrainingError(
                    "E416", f"{name} must lie in {least:g}..{most:g}, got {value!r}"
                )
        if self.schedule == "plateau" and self.warmup:
            raise TrainingError(
                "E416", "a plateau has no warmup", "--schedule step, cosine or onecycle"
            )

    @property
    def rate(self) -> float:
        """The greatest learning rate."""
        return RATES[self.optimizer] if self.lr is None else self.lr

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, made: Mapping[str, Any]) -> "Recipe":
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in made.items() if name in known}
        if given.get("augment") is not None:
            given["augment"] = tuple(given["augment"])
        return cls(**given)


_RANGES = (
    ("epochs", 1, 1_000_000),
    ("batch", 1, 1 << 20),
    ("lr", 0, 1000),
    ("momentum", 0, 1 - 1e-9),
    ("weight_decay", 0, 1000),
    ("warmup", 0, 1_000_000),
    ("label_smoothing", 0, 1 - 1e-9),
    ("ema", 0, 1 - 1e-9),
    ("early_stop", 0, 1_000_000),
    ("clip", 0, 1e30),
    ("seed", 0, 1 << 62),
    ("save_every", 0, 1 << 62),
)

#: AlexNet's recipe as the lecture gives it (Krizhevsky, Sutskever and Hinton, 2012, section 5)
PRESETS: dict[str, dict[str, Any]] = {
    "alexnet": {
        "epochs": 90,
        "batch": 128,
        "lr": 1e-2,
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "label_smoothing": 0.0,
        "clip": 0.0,
        "schedule": "plateau",
    },
}


def make_recipe(preset: str | None = None, **given: Any) -> Recipe:
    """A recipe from a preset and settings that go before it. Raises TrainingError."""
    known = [field.name for field in fields(Recipe)]
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            advice = f"did you mean {near[0]}?" if near else f"of {', '.join(known)}"
            raise TrainingError("E416", f"there is no setting {name!r}", advice)
    if isinstance(given.get("augment"), str | list):
        text = given["augment"]
        kinds = text.split(",") if isinstance(text, str) else text
        given["augment"] = tuple(kind.strip() for kind in kinds if kind.strip() not in ("", "none"))
    start = {}
    if preset is not None:
        _among("preset", preset, tuple(PRESETS))
        start = PRESETS[preset]
    return replace(Recipe(), **{**start, **given})


def _among(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = get_close_matches(str(value), choices, 1)
        advice = f"did you mean {near[0]}?" if near else f"one of {', '.join(choices)}"
        raise TrainingError("E416", f"there is no {name} {value!r}", advice)
