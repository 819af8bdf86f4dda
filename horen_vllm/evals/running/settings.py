"""What a run is asked to do: the part of it that decides the result, and that a resumed run must share."""

from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from horen_vllm.core.presets import PRESETS
from horen_vllm.errors import FailedPrecondition, InvalidArgument
from horen_vllm.evals.questions.drafts import BASE, RETRIEVAL, Form
from horen_vllm.evals.questions.plan_settings import PlanSettings
from horen_vllm.evals.records import Protocol, QuestionKind
from horen_vllm.evals.running.provenance import portable

DEFAULT_ARMS: Final = (BASE, "calibrated", RETRIEVAL)
_TENFOLD: Final = 10


class RunSettings(BaseModel):
    """Settings of a run.

    Attributes
    ----------
    dataset
        Name of the data set, such as ``zsre``.
    arms
        Who is asked; ``base`` is always among them, since the others are compared with it.
    thresholds
        Preset to the cosine c of its codebook; what is missing is as published or calibrated.
    edits
        Length of the stream.
    checkpoints
        Numbers of edits after which is asked; the last one is `edits`.
    chat
        Whether the model has a chat template.
    keep_contradictory
        Whether edits that contradict an earlier one of the file are submitted, too.
    passages
        Whether targets are passages of text.
    offline
        Whether the model is asked in this process; then nothing is submitted.
    static
        Codebooks that hold the edits already, each the name of an arm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    file: Path
    layout: str | None = None
    arms: tuple[str, ...] = DEFAULT_ARMS
    thresholds: dict[str, Annotated[float, Field(ge=-1, le=1)]] = Field(default_factory=dict)
    edits: Annotated[int, Field(ge=1)]
    checkpoints: tuple[int, ...]
    sample: int = 200
    supersede: int = 50
    retrieved: int = 1
    seed: int = 0
    chat: bool = True
    protocols: tuple[Protocol, ...] = tuple(Protocol)
    without: tuple[QuestionKind, ...] = ()
    ordinary: Path | None = None
    ability: Path | None = None
    semantic_model: str | None = None
    keep_contradictory: bool = False
    passages: bool = False
    offline: bool = False
    static: tuple[str, ...] = ()

    def checked(self) -> Self:
        """Return this when it makes sense.

        Raises
        ------
        InvalidArgument
            ``unknown_arm``; ``invalid_arms``, for a threshold of an arm that is not asked, or for no arm at all;
            ``invalid_checkpoints`` or ``invalid_sample``.
        """
        known = {BASE, RETRIEVAL, *(self.static if self.offline else PRESETS)}
        for arm in self.arms:
            if arm not in known:
                raise InvalidArgument(f"unknown arm {arm!r}: choose of {', '.join(sorted(known))}.", code="unknown_arm")
        idle = sorted(set(self.thresholds) - set(self.arms))
        if idle or len(set(self.arms)) != len(self.arms):
            why = f"{idle[0]!r} has a threshold and is not asked" if idle else "an arm is named twice"
            raise InvalidArgument(f"{why}: check --arms and --threshold.", code="invalid_arms")
        if BASE not in self.arms:
            raise InvalidArgument("the arm base is what all others are compared with.", code="invalid_arms")
        if self.checkpoints[-1:] != (self.edits,):
            message = f"the last checkpoint must be the number of edits, {self.edits}."
            raise InvalidArgument(message, code="invalid_checkpoints")
        self.plan()
        return self

    @property
    def books(self) -> tuple[str, ...]:
        """The arms that have a codebook of the run's own: presets."""
        return tuple(arm for arm in self.arms if arm in PRESETS and not self.offline)

    def plan(self) -> PlanSettings:
        """Return what decides the questions."""
        return PlanSettings(
            checkpoints=self.checkpoints,
            sample=self.sample,
            supersede=self.supersede if self.books else 0,
            retrieved=self.retrieved,
            seed=self.seed,
            passages=self.passages,
            protocols=frozenset(self.protocols),
            without=frozenset(self.without),
            form=Form(chat=self.chat),
        )

    def told(self) -> dict[str, JsonValue]:
        """Return the settings as JSON types, with paths as they may be shown."""
        plain: dict[str, Any] = self.model_dump(mode="json")
        for name in ("file", "ordinary", "ability", "semantic_model"):
            if plain[name] is not None:
                plain[name] = portable(plain[name])
        return plain


def default_checkpoints(edits: int) -> tuple[int, ...]:
    """Return the powers of ten below `edits`, and `edits`."""
    found, power = [], 1
    while power < edits:
        found.append(power)
        power *= _TENFOLD
    return (*found, edits)


def check_same(before: dict[str, JsonValue], now: dict[str, JsonValue], folder: Path) -> None:
    """Refuse to go on with a run by other settings than it was begun with.

    Raises
    ------
    FailedPrecondition
        ``run_differs``, naming the first setting that does.
    """
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if names:
        name = names[0]
        message = (
            f"{folder} holds a run with {name} = {before.get(name)!r}, and now it is {now.get(name)!r}: "
            f"give the same settings to go on with it, or another folder."
        )
        raise FailedPrecondition(message, code="run_differs")
