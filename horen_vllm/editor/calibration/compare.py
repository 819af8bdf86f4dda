"""Comparing presets on prompts that had no part in fitting them, as codebooks of entries without values."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from horen_vllm.core.presets import CALIBRATED
from horen_vllm.editor.calibration.arms import Arm, OpenArm, SubjectArm
from horen_vllm.editor.calibration.calibrated import CalibratedPreset, Calibration, CalibrationSettings
from horen_vllm.editor.calibration.grace_arm import GraceArm
from horen_vllm.editor.calibration.measures import Routes, Share, curve, recall_at, share_of
from horen_vllm.editor.calibration.questions import LEAST_ENTRIES, Questions, questions
from horen_vllm.editor.calibration.results import Comparison, PresetResult, recommended
from horen_vllm.editor.calibration.sampler import Sampler
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit

ARMS: Final = (
    ("cosine", False),
    ("horen-paper", False),
    ("horen-reference", False),
    (CALIBRATED, False),
    (CALIBRATED, True),
    ("grace", False),
)
"""Presets that are compared, and whether entries have their subjects given."""


def compare(
    editable: EditableModel,
    calibration: Calibration,
    settings: CalibrationSettings,
    memory: MemoryLimit | None = None,
    progress: Callable[[str], None] = lambda _stage: None,
) -> Comparison | None:
    """Return how the presets of a calibration route the prompts that it held out.

    None where fewer than `questions.LEAST_ENTRIES` of these have another wording. No value is trained: an edit whose
    entry does not fire is not seen, and what fires counts as its entry's answer.
    """
    asked = questions(calibration.held_out, settings.seed)
    if len(asked.entries) < LEAST_ENTRIES:
        return None
    work = _Work(Sampler(editable, memory), asked)
    results = []
    for preset, subjects in ARMS:
        progress(f"comparing: {preset}{', subjects given' if subjects else ''}")
        results.append(work.result(preset, calibration.presets[preset], subjects=subjects))
    return Comparison(
        entries=len(asked.entries),
        false_fire_rate=settings.false_fire_rate,
        results=tuple(results),
        recommended=recommended(results, settings.false_fire_rate),
    )


@dataclass(frozen=True, slots=True)
class _Work:
    sampler: Sampler
    questions: Questions

    def result(self, name: str, preset: CalibratedPreset, *, subjects: bool) -> PresetResult:
        arm = self._arm(preset, subjects=subjects)
        asked = self.questions
        kinds = (asked.rephrases, asked.near, asked.unrelated, asked.same_subject)
        rephrases, near, unrelated, same_subject = (
            arm.routes(self.sampler.sample(texts, preset.parameters)) for texts in kinds
        )
        hardest = same_subject if subjects else near
        recall = share_of(rephrases.right(), rephrases.texts)
        assert recall is not None, "there are entries"
        return PresetResult(
            preset=name,
            subjects=subjects,
            threshold=arm.threshold,
            recall=recall,
            near=_fires(near),
            unrelated=_fires(unrelated),
            same_subject=_fires(same_subject),
            recall_at_1=recall_at(0.01, rephrases, hardest),
            recall_at_5=recall_at(0.05, rephrases, hardest),
            near_curve=curve(rephrases, near),
            same_subject_curve=curve(rephrases, same_subject),
        )

    def _arm(self, preset: CalibratedPreset, *, subjects: bool) -> Arm:
        texts = [entry.prompt for entry in self.questions.entries]
        parameters = preset.parameters
        if not subjects:
            entries = self.sampler.sample(texts, parameters)
            return OpenArm(preset, entries) if parameters.radius is None else GraceArm(preset, entries)
        names = [entry.subject for entry in self.questions.entries]
        entries = self.sampler.masked(texts, names, parameters)
        means = partial(self.sampler.means, parameters=parameters)
        return SubjectArm(preset, entries, names, self.sampler.reader(preset.keying), means)


def _fires(routes: Routes) -> Share | None:
    return share_of(routes.fires(), routes.texts)
