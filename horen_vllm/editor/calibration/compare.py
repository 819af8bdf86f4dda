"""Comparing presets on prompts that had no part in fitting them, as codebooks of entries without values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import torch

from horen_vllm.artifact import KeyContext
from horen_vllm.core.presets import CALIBRATED, MethodParameters, SpanMode
from horen_vllm.editor.calibration.arms import Arm, OpenArm, SubjectArm
from horen_vllm.editor.calibration.calibrated import CalibratedPreset, Calibration, CalibrationSettings
from horen_vllm.editor.calibration.grace_arm import GraceArm
from horen_vllm.editor.calibration.measures import Routes, Share, curve, recall_at, share_of
from horen_vllm.editor.calibration.questions import LEAST_ENTRIES, Questions, questions
from horen_vllm.editor.calibration.results import Comparison, PresetResult, recommended
from horen_vllm.editor.calibration.samples import Sample, mean_memory, sampled
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.passes import context_means
from horen_vllm.editor.spoken import Reader

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
    work = _Work(editable, asked, memory)
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
    editable: EditableModel
    questions: Questions
    memory: MemoryLimit | None
    samples: dict[tuple[Sequence[str], SpanMode, float, bool], Sample] = field(default_factory=dict)

    def result(self, name: str, preset: CalibratedPreset, *, subjects: bool) -> PresetResult:
        arm = self._arm(preset, subjects=subjects)
        asked = self.questions
        kinds = (asked.rephrases, asked.near, asked.unrelated, asked.same_subject)
        rephrases, near, unrelated, same_subject = (arm.routes(self._sample(it, preset.parameters)) for it in kinds)
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
            recall_at_1=recall_at(0.01, rephrases, near),
            recall_at_5=recall_at(0.05, rephrases, near),
            near_curve=curve(rephrases, near),
            same_subject_curve=curve(rephrases, same_subject),
        )

    def _arm(self, preset: CalibratedPreset, *, subjects: bool) -> Arm:
        texts = tuple(entry.prompt for entry in self.questions.entries)
        if not subjects:
            entries = self._sample(texts, preset.parameters)
            return OpenArm(preset, entries) if preset.parameters.radius is None else GraceArm(preset, entries)
        names = [entry.subject for entry in self.questions.entries]
        entries = sampled(self.editable, texts, preset.parameters, names, self.memory)
        reader = Reader(self.editable.tokenizer, preset.keying)
        return SubjectArm(preset, entries, names, reader, partial(self._means, preset.parameters))

    def _sample(self, texts: Sequence[str], parameters: MethodParameters) -> Sample:
        """Return texts without any mask; presets that average alike share one."""
        name = (texts, parameters.span, parameters.window_ratio, parameters.chat)
        if name not in self.samples:
            self.samples[name] = sampled(self.editable, texts, parameters, memory=self.memory)
        return self.samples[name]

    def _means(self, parameters: MethodParameters, contexts: Sequence[KeyContext]) -> torch.Tensor:
        return context_means(self.editable, contexts, parameters, self.memory or mean_memory(self.editable))


def _fires(routes: Routes) -> Share | None:
    return share_of(routes.fires(), routes.texts)
