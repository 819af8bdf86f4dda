"""What may be chosen for a new codebook."""

from typing import Any, TypedDict

from horen_vllm.core.presets import ValueMode


class CodebookOptions(TypedDict, total=False):
    """Method parameters of a new codebook; what is missing or None is as the preset has it.

    The names are those of `core.presets.MethodParameters`.
    """

    preset: str | None
    """One of `core.presets.PRESETS`; None: the one that the newest calibration of the base model recommends. A preset
    that was calibrated has the parameters that were found."""
    threshold: float | None
    """Fixes the threshold; a preset that needs no calibration is then as it is without one."""
    value_mode: ValueMode | None
    window_ratio: float | None
    rank: int | None
    max_value_rows: int | None
    train_end: bool | None
    chat: bool | None
    prefixes: int | None
    false_fire_rate: float | None
    """Only for presets whose threshold follows background queries."""
    anchors: bool | None
    anchored_threshold: float | None
    """Where nothing is given or calibrated, and `anchors` are: the threshold."""
    mask_subject: bool | None


def request_fields(options: CodebookOptions) -> dict[str, Any]:
    """Return the fields of ``CreateCodebookRequest`` that the options stand for."""
    mode = options.get("value_mode")
    return {**options, "value_mode": None if mode is None else mode.name}
