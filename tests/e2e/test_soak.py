"""The short soak: seeded mixed load with updates, against the oracle, and the negative controls on the same engine."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.launch import soak_report

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def report(model_folder: str, site: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("soak")
    return soak_report("v1-preemption", model_folder, site, folder, requests=250, seed=3, controls=True)


def test_every_response_equals_the_oracle_at_its_pinned_revision(report: dict[str, Any]) -> None:
    assert report["complaints"] == [], report


def test_the_soak_did_what_it_is_for(report: dict[str, Any]) -> None:
    happened = ("aborted", "later_turns", "publishes", "retirements", "rollbacks", "cancelled", "stale_refused")
    assert all(report[name] >= 5 for name in happened), report
    assert report["flips_during_preemption"] >= 3
    assert report["stopped_by_text"] + report["logprobs"] >= 50
    assert report["past_a_chunk"] >= 5


def test_no_rule_of_the_prefix_cache_can_be_left_out(report: dict[str, Any]) -> None:
    controls = report["controls"]
    assert controls["matched"] >= 8
    assert (controls["rules in force"], controls["rules in force again"]) == (0, 0)
    assert min(controls["cap off"], controls["taint off"]) >= 3, controls
    assert "cap did not hold" in controls["cap off, worker watching"]


def test_the_v2_runner_with_async_scheduling(model_folder: str, site: str, tmp_path: Path) -> None:
    report = soak_report("v2-preemption-async", model_folder, site, tmp_path, requests=70, seed=5)
    assert report["complaints"] == [], report
