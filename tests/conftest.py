"""Options and fixtures that every folder of tests shares."""

import json
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


@pytest.fixture(scope="session")
def site(model_folder: str) -> str:
    """Edit site of that model."""
    from horen_vllm.core.architectures import default_site

    config = json.loads((Path(model_folder) / "config.json").read_text(encoding="utf-8"))
    return default_site(model_folder, config["architectures"][0], config["num_hidden_layers"])
