"""The method parameters of a new codebook: a preset's or a calibration's, with what the request replaces."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from horen_vllm.control import convert, limits
from horen_vllm.control._pb.horen.v1 import codebooks_pb2
from horen_vllm.control.settings import ControlSettings
from horen_vllm.core.presets import BUILT_IN, CALIBRATED, MethodParameters, SpanMode, preset_parameters
from horen_vllm.errors import FailedPrecondition, InvalidArgument
from horen_vllm.registry.models import CalibrationRecord
from horen_vllm.registry.ports import CalibrationStore

_OVERRIDES: Final[dict[str, Callable[[Any], Any]]] = {
    "window_ratio": limits.check_window_ratio,
    "rank": limits.check_rank,
    "max_value_rows": limits.check_value_rows,
    "train_end": bool,
    "chat": bool,
    "prefixes": limits.check_prefixes,
    "false_fire_rate": limits.check_false_fire_rate,
    "anchors": bool,
    "anchored_threshold": limits.check_anchored_threshold,
    "mask_subject": bool,
}
"""Optional fields of the request that replace the method parameter of the same name, and what checks them."""


def chosen_parameters(
    request: codebooks_pb2.CreateCodebookRequest, settings: ControlSettings, calibrations: CalibrationStore
) -> MethodParameters:
    """Return the parameters that a new codebook gets.

    Without a preset they are those that the base model's newest calibration recommends. A preset that this calibration
    has is as it found it, unless the request fixes the threshold of one that needs no calibration.

    Raises
    ------
    InvalidArgument
        ``unknown_preset``, ``threshold_required``, ``invalid_threshold``, ``invalid_window_ratio`` or
        ``invalid_parameter``.
    FailedPrecondition
        ``calibration_required``, when there is no calibration that has what is asked for.
    """
    threshold = limits.check_threshold(request.threshold) if request.HasField("threshold") else None
    calibration = _newest(calibrations, settings)
    preset = request.preset[: limits.MAX_NAME] or _recommended(calibration)
    parameters = _preset(preset, threshold, calibration, settings.model)
    given = _given(request)
    _check_fit(parameters, given)
    return replace(parameters, **_with_anchors(parameters, given))


def _newest(calibrations: CalibrationStore, settings: ControlSettings) -> CalibrationRecord | None:
    """Return the newest calibration of the base model at its edit site: those of other sites say nothing of it."""
    made = calibrations.list_calibrations(settings.fingerprint)
    return next((record for record in reversed(made) if record.site == settings.site), None)


def _recommended(calibration: CalibrationRecord | None) -> str:
    if calibration is None:
        message = (
            "this base model is not calibrated, so nothing recommends a preset: "
            f"run `horen calibrate`, or choose one of {', '.join(BUILT_IN)}."
        )
        raise FailedPrecondition(message, code="calibration_required")
    return calibration.recommended


def _preset(
    preset: str, threshold: float | None, calibration: CalibrationRecord | None, model: str
) -> MethodParameters:
    found = calibration.presets.get(preset) if calibration else None
    if found is not None and threshold is None:
        return found
    if found is not None and threshold is not None and preset not in BUILT_IN:
        return replace(found, threshold=threshold, background=None, false_fire_rate=None)
    if preset == CALIBRATED:
        message = f"this base model has no calibration with a preset {preset!r}: run `horen calibrate`."
        raise FailedPrecondition(message, code="calibration_required")
    return preset_parameters(preset, model, threshold)


def _given(request: codebooks_pb2.CreateCodebookRequest) -> dict[str, Any]:
    """Return what the request replaces, by parameter."""
    mode = convert.value_mode_from_proto(request.value_mode)
    given: dict[str, Any] = {} if mode is None else {"value_mode": mode}
    return given | {name: check(getattr(request, name)) for name, check in _OVERRIDES.items() if request.HasField(name)}


def _check_fit(parameters: MethodParameters, given: dict[str, Any]) -> None:
    """Refuse replacements that contradict the preset or each other.

    Raises
    ------
    InvalidArgument
        ``invalid_parameter`` or ``invalid_window_ratio``.
    """
    fitted = parameters.space or parameters.background
    if fitted and given.get("window_ratio", parameters.window_ratio) != parameters.window_ratio:
        message = f"window_ratio is {parameters.window_ratio:g} in the calibration and cannot be another one."
        raise InvalidArgument(message, code="invalid_window_ratio")
    anchors = given.get("anchors", parameters.anchors)
    refusals = {
        "false_fire_rate is for a preset whose threshold follows background queries; here it is fixed.": (
            "false_fire_rate" in given and parameters.background is None
        ),
        "anchors are for presets that compare by cosine; this one compares by distance.": (
            anchors and parameters.radius is not None
        ),
        "grace keys one prompt an edit: it has neither a chat form nor openings.": (
            parameters.radius is not None and bool(given.get("chat") or given.get("prefixes"))
        ),
        "anchors are looked for in what the user wrote, and this preset reads the whole prompt.": (
            anchors and parameters.radius is None and parameters.span is SpanMode.PROMPT
        ),
        "mask_subject needs anchors.": given.get("mask_subject", False) and not anchors,
    }
    for message, holds in refusals.items():
        if holds:
            raise InvalidArgument(message, code="invalid_parameter")


def _with_anchors(parameters: MethodParameters, given: dict[str, Any]) -> dict[str, Any]:
    """Return `given` with what follows from switching anchors on or off."""
    if given.get("anchors", parameters.anchors):
        # A threshold of its own is only known from a calibration; c is then the careful one.
        known = parameters.anchors or parameters.space or parameters.background
        return given if known else {"anchored_threshold": parameters.threshold, **given}
    return {**given, "mask_subject": False}
