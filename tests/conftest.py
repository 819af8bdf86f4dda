"""Options and fixtures that every folder of tests shares."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--model", type=Path, default=None, help="model folder for the engine tests (default: demo model)")


@pytest.fixture(scope="session")
def model_folder(request: pytest.FixtureRequest) -> str:
    """Folder of the model that engine tests serve."""
    chosen: Path | None = request.config.getoption("--model")
    if chosen is not None:
        return str(chosen)
    from horen_vllm.demo.paths import demo_model_dir

    return str(demo_model_dir())
