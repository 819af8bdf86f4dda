"""A checkout that was not installed: vLLM finds both entry points of the plugin."""

import importlib.metadata
import os
from pathlib import Path

import pytest

from bench.checkout import ROOT, register_checkout


def test_both_entry_points_are_on_the_module_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setenv("PYTHONPATH", "before")
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "distribution", missing)
        register_checkout(tmp_path)
        register_checkout(tmp_path)
    paths = os.environ["PYTHONPATH"].split(os.pathsep)
    assert str(ROOT) in paths
    assert paths[-1] == "before"
    [found] = importlib.metadata.Distribution.discover(name="horen-vllm", path=[paths[0]])
    named = {(point.group, point.name, point.value) for point in found.entry_points}
    assert ("vllm.general_plugins", "horen", "horen_vllm.plugin:register") in named
    assert ("vllm.endpoint_plugins", "horen_serving", "horen_vllm.serving.endpoint:HorenEndpoint") in named
