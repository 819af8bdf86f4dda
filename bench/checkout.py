"""Lets vLLM find the plugin in a checkout that was not installed."""

import contextlib
import importlib.metadata
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]


def register_checkout(folder: Path) -> None:
    """Put the checkout on the module path of the processes that are started from here, and name its entry points.

    They are written below `folder`, unless the package is installed.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution("horen-vllm")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return
    info = folder / "entry_point" / "horen_vllm-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: horen-vllm\nVersion: 0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(entry_points(), encoding="utf-8")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(info.parent), *paths]))


def entry_points() -> str:
    """Return the checkout's entry points as an installed package has them in a file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups: Mapping[str, Mapping[str, str]] = project["entry-points"]
    return "".join(
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in names.items())
        for group, names in groups.items()
    )
