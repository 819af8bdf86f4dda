"""Small data files, written where a test wants them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from horen_vllm.evals.data.dataset import Dataset
from horen_vllm.evals.data.defects import Defect
from horen_vllm.evals.data.opening import open_dataset
from horen_vllm.evals.records import Case, ProbeKind

Fields = Mapping[str, Any]


def written(folder: Path, rows: Sequence[Fields], *, name: str = "data.jsonl") -> Path:
    """Return the path of a file of JSON lines with these rows."""
    path = folder / name
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return path


def opened(folder: Path, *rows: Fields, name: str | None = None, layout: str | None = None, **more: Any) -> Dataset:
    """Return what `open_dataset` makes of a file with these rows."""
    return open_dataset(written(folder, rows), name=name, layout=layout, **more)


def defect(dataset: Dataset, kind: str) -> Defect:
    """Return the defect of that kind, which must be there."""
    return next(found for found in dataset.defects if found.kind == kind)


def kinds(dataset: Dataset) -> list[str]:
    """Return the kinds of defects that were met."""
    return [str(found.kind) for found in dataset.defects]


def prompts(case: Case, kind: ProbeKind) -> list[tuple[str, tuple[str, ...]]]:
    """Return the questions of that kind with their answers."""
    return [(probe.prompt, probe.targets) for probe in case.probes if probe.kind is kind]
