"""Presets: named sets of method parameters, and the paper's per-model table (Table 3, appendix D.4.3).

Knows parameters only; who applies them is ``core.match`` in the server and ``editor`` in training.
"""

import math
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final

from horen_vllm.errors import InvalidArgument


class ValueMode(StrEnum):
    """Which answer positions a value is written at (architecture.md, rule *Inject*)."""

    SEQUENCE = "sequence"
    """One vector for each answer position of the span; over a long one, for several in a row (`max_value_rows`)."""
    ANSWER = "answer"
    """One vector, at every answer position of the span (the paper's section 2.4)."""
    LAST = "last"
    """One vector, at the prompt's last token only (the paper's released code)."""
    REPLACE = "replace"
    """One vector that stands in for the output at the prompt's last token (GRACE)."""


class SpanMode(StrEnum):
    """Which prompt tokens are the query span (architecture.md, rule *Key and query*)."""

    PROMPT = "prompt"
    """The whole prompt in every form, BOS and chat template included (the paper)."""
    CONTENT = "content"
    """Completions: the prompt without its BOS. Chat: the content of the last user message."""


MAX_FALSE_FIRE_RATE: Final = 0.2
"""Highest share of background queries that a codebook may be asked to let fire."""
_ALWAYS_STORED: Final = frozenset({"preset", "threshold", "value_mode"})
"""Fields that no default stands in for when they are missing; what later versions add has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodParameters:
    """Everything that decides how a codebook routes, trains and injects."""

    preset: str
    """Name of the preset that these parameters started from."""
    window_ratio: float = 0.6
    """Share of the query span, counted from its end, that is averaged (section 2.2)."""
    span: SpanMode = SpanMode.PROMPT
    """Which prompt tokens the window is taken from; what was stored without this field meant the whole prompt."""
    threshold: float
    """c: an entry matches when its score is greater than this cosine (section 2.2)."""
    beta: float = 20.0
    """Inverse temperature of the Hopfield softmax (eq. 2)."""
    gamma: float = 0.0
    """Damping: the step's share of the refined query (eq. 3)."""
    steps: int = 0
    """M: number of refinement steps; 0 is plain cosine."""
    epsilon: float = 1e-5
    """A row stops refining when its attractor is nearer than this (Alg. 1)."""
    value_mode: ValueMode = ValueMode.SEQUENCE
    """Where the value is written."""
    learning_rate: float = 0.3
    """Adam step size, times the site output's rms when `scale_learning_rate`."""
    scale_learning_rate: bool = True
    """Whether `learning_rate` is relative to the rms of the site's output."""
    max_steps: int = 60
    """Most optimiser steps for one edit."""
    stop_loss: float | None = 0.05
    """Training may stop when the mean cross-entropy (nats a token) is below this; None: never."""
    patience: int | None = None
    """Training stops after this many steps without a lower loss; None: never."""
    stop_when_greedy: bool = True
    """Whether stopping at `stop_loss` also needs the arg-max to be right at every position."""
    train_end: bool = True
    """Whether the position that predicts the end of the answer is trained and written too."""
    uniform_start: bool = False
    """Whether training starts from uniform numbers in [0, 1) (the released code) and not from zero."""
    keep_last: bool = False
    """Whether the last iterate is kept (paper and released code), not the best one."""
    noise: float = 0.0
    """Noise that values are trained under, relative to the rms of the states at the answer positions; 0: none."""
    rank: int = 0
    """Rank r of a LoRA value (appendix G.3); 0: direct vectors."""
    max_value_rows: int = 256
    """Most vectors of a `sequence` value; over a longer span each is written at several positions in a row."""
    chat: bool = True
    """Whether the chat form of a prompt is a context of its edit, too."""
    prefixes: int = 0
    """Short random prefixes that are put in front of an edit's prompt, each a context of its own."""
    space: str | None = None
    """Artifact (sha256, hex) of the fitted routing space; None: the identity (the paper)."""
    background: str | None = None
    """Artifact (sha256, hex) of the background queries that the threshold follows."""
    false_fire_rate: float | None = None
    """Share of background queries that may match; the threshold follows it as entries come and go. None: fixed."""
    anchors: bool = False
    """Whether an entry whose edit names a subject fires only where the subject or an alias occurs."""
    anchored_threshold: float = 0.0
    """c of entries with anchors."""
    mask_subject: bool = False
    """Whether entries with anchors are keyed, and asked for, without the subject's own tokens."""
    radius: float | None = None
    """GRACE's first deferral radius: keys are activations, and Euclidean distance decides. None: cosine."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        checks = {
            "window_ratio": 0.0 < self.window_ratio <= 1.0,
            "threshold": -1.0 <= self.threshold <= 1.0,
            "beta": self.beta > 0.0,
            "gamma": 0.0 <= self.gamma < 1.0,
            "steps": 0 <= self.steps <= 64,
            "epsilon": self.epsilon >= 0.0,
            "learning_rate": 0.0 < self.learning_rate < math.inf,
            "stop_loss": self.stop_loss is None or 0.0 < self.stop_loss < math.inf,
            "patience": self.patience is None or self.patience >= 1,
            "max_steps": self.max_steps >= 1,
            "noise": 0.0 <= self.noise <= 4.0,
            "rank": 0 <= self.rank <= 64 and not (self.rank and self.value_mode is ValueMode.REPLACE),
            "max_value_rows": self.max_value_rows >= 1,
            "prefixes": 0 <= self.prefixes <= 16,
            "false_fire_rate": self.false_fire_rate is None or 0.0 < self.false_fire_rate <= MAX_FALSE_FIRE_RATE,
            "background": self.false_fire_rate is None or self.background is not None,
            "anchored_threshold": -1.0 <= self.anchored_threshold <= 1.0,
            "mask_subject": self.anchors or not self.mask_subject,
            "value_mode": self.value_mode is not ValueMode.REPLACE or self.radius is not None,
            "radius": self.radius is None or (0.0 < self.radius < math.inf and not self.steps and not self.space),
        }
        for name, holds in checks.items():
            if not holds:
                message = f"{name} = {getattr(self, name)} is outside its range."
                raise InvalidArgument(message, code="invalid_parameter")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, for storage and for the wire."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "MethodParameters":
        """Read what `to_dict` wrote.

        Raises
        ------
        InvalidArgument
            ``invalid_parameter``, for an unknown or missing field, or a value of the wrong type or out of range.
        """
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            message = f"unknown method parameter {min(unknown)!r}."
            raise InvalidArgument(message, code="invalid_parameter")
        missing = _ALWAYS_STORED - set(data)
        if missing:
            message = f"the method parameter {min(missing)!r} is missing."
            raise InvalidArgument(message, code="invalid_parameter")
        try:
            return cls(**{**data, **_choices(data)})
        except TypeError as exc:
            raise InvalidArgument(f"a method parameter has the wrong type: {exc}.", code="invalid_parameter") from exc


_CHOICES: Final[dict[str, type[StrEnum]]] = {"value_mode": ValueMode, "span": SpanMode}


def _choices(data: dict[str, Any]) -> dict[str, StrEnum]:
    """Return the fields of `data` that name one of a few choices, as such."""
    return {name: _choice(name, kind, data[name]) for name, kind in _CHOICES.items() if name in data}


def _choice(name: str, kind: type[StrEnum], text: Any) -> StrEnum:
    try:
        return kind(text)
    except ValueError as exc:
        message = f"{name} = {text!r} is unknown: choose one of {', '.join(kind)}."
        raise InvalidArgument(message, code="invalid_parameter") from exc


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What the paper and the released code publish for one model."""

    site: str
    window_ratio: float
    paper_threshold: float
    reference_threshold: float


def _down_proj(layer: int) -> str:
    return f"model.layers.{layer}.mlp.down_proj"


KNOWN_MODELS: Final = {
    "meta-llama-3-8b-instruct": KnownModel(_down_proj(29), 0.5, 0.80, 0.85),
    "llama-3.1-8b-instruct": KnownModel(_down_proj(29), 0.6, 0.85, 0.85),
    "deepseek-r1-distill-llama-8b": KnownModel(_down_proj(29), 0.6, 0.85, 0.80),
    "qwen2.5-7b-instruct": KnownModel(_down_proj(24), 0.6, 0.55, 0.55),
    "qwen-sea-lion-v4-32b-it": KnownModel(_down_proj(56), 0.6, 0.55, 0.55),
    "deepseek-r1-distill-qwen-1.5b": KnownModel(_down_proj(27), 0.6, 0.60, 0.80),
    "gpt-oss-20b": KnownModel("model.layers.20.self_attn.o_proj", 0.6, 0.80, 0.85),
}
"""By the last path component of the model's name, lower case."""

CALIBRATED: Final = "calibrated"
"""Preset that `horen calibrate` makes for one model; nothing stands for it before."""
BUILT_IN: Final = ("horen-paper", "horen-reference", "cosine", "grace")
"""Presets that `preset_parameters` builds."""
PRESETS: Final = (*BUILT_IN, CALIBRATED)
"""Presets that this version implements."""


def known_model(model: str) -> KnownModel | None:
    """Return the published settings of `model` (a hub name or a folder), or None when there are none."""
    name = model.rstrip("/").rsplit("/", 1)[-1].lower()
    return KNOWN_MODELS.get(name) or KNOWN_MODELS.get(f"meta-{name}") or KNOWN_MODELS.get(name.removeprefix("meta-"))


def preset_parameters(preset: str, model: str, threshold: float | None = None) -> MethodParameters:
    """Return the parameters of `preset` for `model`.

    Parameters
    ----------
    preset
        One of `BUILT_IN`.
    model
        Hub name or folder; decides the published threshold and window ratio.
    threshold
        Cosine c that replaces the published one; needed when none is published.

    Raises
    ------
    InvalidArgument
        ``unknown_preset``; ``calibration_required``, for a preset that only a calibration makes;
        ``threshold_required``, when neither the caller nor the paper gives a threshold.
    """
    if preset not in PRESETS:
        message = f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}."
        raise InvalidArgument(message, code="unknown_preset")
    if preset not in BUILT_IN:
        message = f"the preset {preset!r} is made for one model by a calibration: run `horen calibrate`."
        raise InvalidArgument(message, code="calibration_required")
    known = known_model(model)
    if threshold is None:
        threshold = _published_threshold(preset, known)
    if threshold is None:
        message = f"preset {preset!r} has no published threshold for {model!r}: give one (a cosine, e.g. 0.85)."
        raise InvalidArgument(message, code="threshold_required")
    ratio = known.window_ratio if known else 0.6
    return _PRESET_BUILDERS[preset](ratio, threshold)


def _published_threshold(preset: str, known: KnownModel | None) -> float | None:
    if preset == "grace":
        return 0.0  # its entries have radii
    if known is None or preset == "cosine":
        return None
    return known.reference_threshold if preset == "horen-reference" else known.paper_threshold


def _horen_paper(ratio: float, threshold: float) -> MethodParameters:
    return MethodParameters(
        preset="horen-paper",
        window_ratio=ratio,
        threshold=threshold,
        gamma=0.01,
        steps=1,
        value_mode=ValueMode.ANSWER,
        learning_rate=0.1,
        scale_learning_rate=False,
        max_steps=50,
        stop_loss=1e-2,
        patience=3,
        stop_when_greedy=False,
        train_end=False,
        keep_last=True,
        chat=False,
    )


def _horen_reference(ratio: float, threshold: float) -> MethodParameters:
    return MethodParameters(
        preset="horen-reference",
        window_ratio=ratio,
        threshold=threshold,
        gamma=0.1,
        steps=1,
        value_mode=ValueMode.LAST,
        learning_rate=1.0,
        scale_learning_rate=False,
        max_steps=50,
        stop_loss=None,
        stop_when_greedy=False,
        train_end=False,
        uniform_start=True,
        keep_last=True,
        chat=False,
    )


def _cosine(ratio: float, threshold: float) -> MethodParameters:
    return MethodParameters(
        preset="cosine",
        window_ratio=ratio,
        threshold=threshold,
        span=SpanMode.CONTENT,
        learning_rate=1.0,
        noise=0.75,
    )


def _grace(_ratio: float, threshold: float) -> MethodParameters:
    return MethodParameters(
        preset="grace",
        window_ratio=1e-6,  # the last token
        threshold=threshold,
        radius=1.0,
        value_mode=ValueMode.REPLACE,
        learning_rate=1.0,
        scale_learning_rate=False,
        max_steps=100,
        stop_loss=None,
        stop_when_greedy=False,
        train_end=False,
        uniform_start=True,
        keep_last=True,
        chat=False,
    )


_PRESET_BUILDERS: Final = {
    "horen-paper": _horen_paper,
    "horen-reference": _horen_reference,
    "cosine": _cosine,
    "grace": _grace,
}
