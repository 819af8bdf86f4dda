"""Paired ratios out of result files, by a label each: what a regression check compares and a report plots.

All ratios are such that more is better.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

Ratio = Mapping[str, float]
"""``median``, ``low`` and ``high``."""
Labelled = tuple[str, Ratio]


def _serving(result: Mapping[str, Any]) -> Iterator[Labelled]:
    for row in result["rows"]:
        if "error" not in row:
            yield f"tokens a second, of plain vLLM's: {row['cell']}", row["tokens_ratio"]


def _routing(result: Mapping[str, Any]) -> Iterator[Labelled]:
    for row in result["rows"]:
        shape = f"{row['kind']} {row['entries']} x{row['batch']} {row['method']}, {row['sort']}"
        for side, found in row["sides"].items():
            if side not in {"ours", "copy"}:
                yield f"{side} takes times ours: {shape}", found["times_ours"]
    for row in result["mixed"]:
        shape = f"{row['kind']} {row['entries']} in {row['codebooks']} codebooks {row['method']}"
        yield f"{row['ratio_of']}: {shape}", row["ratio"]


def _method(result: Mapping[str, Any]) -> Iterator[Labelled]:
    for row in result["rows"]:
        for name, ratio in row["ratios"].items():
            yield f"{name}: {row['entries']} entries", ratio


FILES: Final[Mapping[str, Callable[[Mapping[str, Any]], Iterator[Labelled]]]] = {
    "serving_cpu": _serving,
    "serving_gpu": _serving,
    "routing": _routing,
    "routing_gpu": _routing,
    "method": _method,
}
"""The result files with paired ratios, without their suffix, and how they are read."""


def ratios_of(path: Path) -> dict[str, Ratio]:
    """Return the ratios of a result file by their labels; its name is one of `FILES`."""
    return dict(FILES[path.stem](json.loads(path.read_text(encoding="utf-8"))))
