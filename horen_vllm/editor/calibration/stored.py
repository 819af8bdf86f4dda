"""Storing a calibration: its files in the artifact store, its presets in the registry as the base model's newest."""

from collections.abc import Mapping
from typing import Any, Final

from horen_vllm.artifacts.store import ArtifactStore, digest_of
from horen_vllm.core.presets import CALIBRATED
from horen_vllm.editor.calibration.background import builtin_background
from horen_vllm.editor.calibration.calibrated import Calibration, CalibrationSettings, calibrate_presets, files_of
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.registry.models import CalibrationRecord
from horen_vllm.registry.ports import CalibrationStore

_FIRST_PROMPTS: Final = 1200
"""Built-in prompts that a calibration at the first start takes: nobody wants to wait for more."""


def store_calibration(
    registry: CalibrationStore,
    artifacts: ArtifactStore,
    editable: EditableModel,
    calibration: Calibration,
    recommended: str,
    summary: Mapping[str, Any],
) -> CalibrationRecord:
    """Store a calibration; its files come first, so that whoever reads the record finds them."""
    files = files_of(iter(calibration.presets.values())).values()
    registry.register_artifacts({digest_of(data): len(data) for data in files})
    for data in files:
        artifacts.put(data)
    return registry.add_calibration(
        fingerprint=editable.fingerprint,
        site=editable.site,
        presets={name: preset.parameters for name, preset in calibration.presets.items()},
        recommended=recommended,
        summary=summary,
    )


def summary_of(settings: CalibrationSettings, prompts: int, comparison: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the registry keeps of how a calibration was made and how its presets compare."""
    return {
        "source": settings.source,
        "prompts": prompts,
        "false_fire_rate": settings.false_fire_rate,
        "subject_rate": settings.subject_rate,
        "seed": settings.seed,
        "comparison": comparison,
    }


def first_calibration(
    registry: CalibrationStore, artifacts: ArtifactStore, editable: EditableModel, model: str, memory: MemoryLimit
) -> CalibrationRecord | None:
    """Calibrate on built-in prompts, without a comparison, unless there is a calibration for the base model already.

    `model` is the name by which published thresholds are found.
    """
    if any(made.site == editable.site for made in registry.list_calibrations(editable.fingerprint)):
        return None
    prompts, settings = builtin_background()[:_FIRST_PROMPTS], CalibrationSettings()
    calibration = calibrate_presets(editable, model, prompts, settings, memory)
    summary = summary_of(settings, len(prompts), None)
    return store_calibration(registry, artifacts, editable, calibration, CALIBRATED, summary)
