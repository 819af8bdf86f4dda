"""Results of a comparison: plain data, and which preset it speaks for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from horen_vllm.core.presets import CALIBRATED
from horen_vllm.editor.calibration.measures import CurvePoint, Share, pooled

_CURVES: Final = ("near_curve", "same_subject_curve")
_SIMPLEST_FIRST: Final = ("cosine", "horen-paper", "horen-reference", CALIBRATED, "grace")


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetResult:
    """How one preset routes the questions of the comparison."""

    preset: str
    subjects: bool
    """Whether the entries had their subjects given."""
    threshold: float | None
    """c with the comparison's keys; of entries with subjects the anchored one; None where radii decide."""
    recall: Share
    """Rephrases on which the right entry fires."""
    near: Share | None
    """Questions of the entries' relations about other subjects on which some entry fires."""
    unrelated: Share | None
    """Questions of other relations, or of none, on which some entry fires."""
    same_subject: Share | None
    """Questions of other relations about the entries' subjects on which some entry fires."""
    recall_at_1: Share | None
    """Recall with thresholds at which 1 % of the near questions fire, with subjects of the same-subject ones."""
    recall_at_5: Share | None
    near_curve: tuple[CurvePoint, ...]
    """Recall against near false fires, as the thresholds move."""
    same_subject_curve: tuple[CurvePoint, ...]

    @property
    def label(self) -> str:
        """What people read."""
        return f"{self.preset}, subjects given" if self.subjects else self.preset

    @property
    def strangers(self) -> Share | None:
        """Near and unrelated questions together, as they come in the background: what `false_fire_rate` is about."""
        return pooled(self.near, self.unrelated)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All presets on the same questions."""

    entries: int
    false_fire_rate: float
    """What was asked for."""
    results: tuple[PresetResult, ...]
    recommended: str
    """Preset that these numbers speak for."""

    @property
    def better_with_subjects(self) -> PresetResult | None:
        """What is surely better than the recommended preset where edits have their subjects; None: nothing is."""
        chosen = next(it for it in self.results if it.preset == self.recommended and not it.subjects)
        others = [it for it in self.results if it.subjects and it.preset != chosen.preset]
        return next((it for it in others if it.recall.low > chosen.recall.high), None)

    def to_dict(self, *, curves: bool = True) -> dict[str, Any]:
        """Return plain JSON types, with or without the curves."""
        found = asdict(self)
        for result in found["results"] if not curves else ():
            for name in _CURVES:
                del result[name]
        return found


def recommended(results: Sequence[PresetResult], rate: float) -> str:
    """Return the preset with the highest recall of those that keep to the false-fire rate.

    A preset keeps to it when the interval of its false fires reaches down to `rate`; when none does, the one with the
    fewest counts. Where recalls cannot be told apart (their intervals overlap) the simpler preset is taken. Subjects
    are the submitter's choice, so what they add does not count.
    """
    plain = [result for result in results if not result.subjects]
    kept = [result for result in plain if result.strangers is None or result.strangers.low <= rate]
    if not kept:
        return min(plain, key=lambda result: result.strangers.share if result.strangers else 0.0).preset
    best = max(kept, key=lambda result: result.recall.share)
    alike = [result.preset for result in kept if result.recall.high >= best.recall.low]
    return min(alike, key=_SIMPLEST_FIRST.index)
