"""Every engine configuration that the plugin accepts, against the oracle under mixed load; ``make matrix``."""

from pathlib import Path

import pytest

from tests.e2e.configurations import CONFIGURATIONS
from tests.e2e.launch import soak_report

pytestmark = [pytest.mark.engine, pytest.mark.matrix]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configuration(name: str, model_folder: str, site: str, tmp_path: Path) -> None:
    requests = CONFIGURATIONS[name].requests
    report = soak_report(name, model_folder, site, tmp_path, requests=requests, seed=21)
    assert report["complaints"] == [], report
