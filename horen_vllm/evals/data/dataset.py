"""A data set that was read."""

from dataclasses import dataclass
from pathlib import Path

from horen_vllm.evals.data.defects import Defect
from horen_vllm.evals.records import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The cases of a file, and what is wrong with it.

    Attributes
    ----------
    name
        What the data are called in reports; it also decides what its locality prompts are, see `layouts.negatives`.
    path
        The file, or the folder of a layout that has two files.
    sha256
        Hash of the file's bytes; of a folder, of the hashes of its files.
    layout
        Name of the layout that it was read by.
    rows
        Rows that were read; fewer than the file has when `open_dataset` was given a limit.
    cases
        In the order of the file, each prompt once unless contradictory edits were to be kept.
    defects
        In the order of `DefectKind`.
    """

    name: str
    path: Path
    sha256: str
    layout: str
    rows: int
    cases: tuple[Case, ...]
    defects: tuple[Defect, ...]
