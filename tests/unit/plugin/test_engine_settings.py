"""The engine half's settings."""

from typing import Any

import pytest

from horen_vllm.errors import InvalidArgument
from horen_vllm.plugin.settings import EngineSettings

SITE = "model.layers.1.mlp.down_proj"


def read(section: Any) -> EngineSettings | None:
    return EngineSettings.from_additional_config({"horen": section})


@pytest.mark.parametrize("config", [None, {}, {"other": 1}, "horen", {"horen": None}])
def test_a_server_without_a_horen_section_is_left_alone(config: Any) -> None:
    assert EngineSettings.from_additional_config(config) is None


def test_settings_are_read_with_their_defaults_and_the_build_mark_is_ignored() -> None:
    defaults = EngineSettings(site=SITE, key_budget_mib=256, value_budget_mib=64, subject_ranges=4)
    assert read({"site": SITE, "build": "0.1"}) == defaults
    given: dict[str, Any] = {"key_budget_mib": 1, "value_budget_mib": 2, "static_dir": "books", "poison_freed": True}
    given["first_scores"] = True
    assert read({"site": SITE, **given}) == EngineSettings(site=SITE, **given)


@pytest.mark.parametrize("ranges", [0, 16])
def test_a_request_may_have_no_room_for_masked_subjects_or_a_lot(ranges: int) -> None:
    settings = read({"site": SITE, "subject_ranges": ranges})
    assert settings is not None
    assert settings.subject_ranges == ranges


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"site": SITE, "sites": 1}, "sites"),
        ({}, "site"),
        ({"site": 29}, "site"),
        ({"site": SITE, "key_budget_mib": 0}, "key_budget_mib"),
        ({"site": SITE, "value_budget_mib": 1.5}, "value_budget_mib"),
        ({"site": SITE, "value_budget_mib": True}, "value_budget_mib"),
        ({"site": SITE, "key_budget_mib": "8"}, "key_budget_mib"),
        ({"site": SITE, "subject_ranges": -1}, "subject_ranges"),
        ({"site": SITE, "subject_ranges": 17}, "subject_ranges"),
        ({"site": SITE, "subject_ranges": True}, "subject_ranges"),
        ({"site": SITE, "static_dir": 3}, "static_dir"),
        ({"site": SITE, "static_dir": ["books"]}, "static_dir"),
        ({"site": SITE, "first_scores": 1}, "first_scores"),
        ({"site": SITE, "poison_freed": 1}, "poison_freed"),
        ({"site": SITE, "poison_freed": "true"}, "poison_freed"),
        (True, "horen"),
        ([SITE], "horen"),
        (SITE, "horen"),
    ],
)
def test_wrong_settings_are_refused_by_name(section: Any, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named) as caught:
        read(section)
    assert caught.value.code == "invalid_engine_settings"
