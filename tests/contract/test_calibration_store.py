"""Contract of `ports.CalibrationStore`."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from horen_vllm.core.presets import SpanMode
from horen_vllm.errors import InvalidArgument, NotFound
from horen_vllm.registry.models import CalibrationRecord
from horen_vllm.registry.ports import Registry

from .conftest import PARAMETERS

PRESETS = {
    "horen-paper": PARAMETERS,
    "calibrated": replace(
        PARAMETERS,
        preset="calibrated",
        span=SpanMode.CONTENT,
        threshold=0.1 + 0.2,
        space="a" * 64,
        background="b" * 64,
        false_fire_rate=0.01,
        anchors=True,
    ),
}
SUMMARY = {"presets": [{"name": "calibrated", "auc": 0.1 + 0.2, "prompts": 512}], "note": "\u00fc"}

Add = Callable[..., CalibrationRecord]


@pytest.fixture
def add(registry: Registry) -> Add:
    """Adds a calibration of one site."""

    def add_one(fingerprint: str = "fp", **fields: Any) -> CalibrationRecord:
        given = {"presets": PRESETS, "recommended": "calibrated", "summary": SUMMARY, **fields}
        return registry.add_calibration(fingerprint=fingerprint, site="layers.29", **given)

    return add_one


def test_a_calibration_reads_back_as_it_was_written(
    open_registry: Callable[[], Registry], add: Add, now: Callable[[], datetime]
) -> None:
    added = add()
    assert added == CalibrationRecord(
        fingerprint="fp",
        site="layers.29",
        version=1,
        presets=PRESETS,
        recommended="calibrated",
        summary=SUMMARY,
        created_at=now(),
    )
    read = open_registry().calibration("fp")
    assert read == added
    assert list(read.presets) == list(PRESETS)
    assert read.created_at.tzinfo is UTC


def test_versions_are_counted_for_each_base_model(registry: Registry, add: Add) -> None:
    made = [add("a"), add("b"), add("a", recommended="horen-paper"), add("a")]
    assert [(it.fingerprint, it.version) for it in made] == [("a", 1), ("b", 1), ("a", 2), ("a", 3)]
    assert registry.calibration("a") == made[3]
    assert registry.calibration("b") == made[1]
    assert registry.calibration("a", 2) == made[2]
    assert registry.list_calibrations("a") == [made[0], made[2], made[3]]
    assert registry.list_calibrations() == [made[0], made[2], made[3], made[1]]
    assert registry.list_calibrations("c") == []


@pytest.mark.parametrize(
    ("fingerprint", "version", "said"),
    [("b" * 64, None, "no calibration of the base model with fingerprint bbbbbbbbbbbb."), ("a", 2, "no calibration 2")],
)
def test_an_unknown_calibration_is_named(
    registry: Registry, add: Add, fingerprint: str, version: int | None, said: str
) -> None:
    add("a")
    with pytest.raises(NotFound, match=said) as caught:
        registry.calibration(fingerprint, version)
    assert caught.value.code == "unknown_calibration"


@pytest.mark.parametrize(
    "fields",
    [{"recommended": "cosine"}, {"summary": {"rate": float("nan")}}, {"summary": {"rate": object()}}],
    ids=["recommended", "NaN", "no JSON"],
)
def test_what_cannot_be_used_is_not_stored(registry: Registry, add: Add, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        add(**fields)
    assert caught.value.code == "invalid_calibration"
    assert registry.list_calibrations() == []
