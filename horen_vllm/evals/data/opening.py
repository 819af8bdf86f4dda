"""Opening data files: which layout they have, and what is in them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from horen_vllm.errors import InvalidArgument
from horen_vllm.evals.data.cleaning import Gathering, Tidying
from horen_vllm.evals.data.dataset import Dataset
from horen_vllm.evals.data.defects import DefectLog
from horen_vllm.evals.data.layouts.counterfact import COUNTERFACT
from horen_vllm.evals.data.layouts.easyedit import EASYEDIT, KNOWEDIT
from horen_vllm.evals.data.layouts.layout import Layout
from horen_vllm.evals.data.layouts.mend import HOREN, KILT, MEND
from horen_vllm.evals.data.layouts.mquake import MQUAKE
from horen_vllm.evals.data.layouts.negatives import usual_kind
from horen_vllm.evals.data.layouts.normalised import NORMALISED, PLAIN
from horen_vllm.evals.data.layouts.unke import UNKE
from horen_vllm.evals.data.layouts.wikibigedit import WIKIBIGEDIT
from horen_vllm.evals.data.reading import RowFile, open_rows
from horen_vllm.evals.data.row import EmptyPartError, Row
from horen_vllm.evals.records import Case, ProbeKind

LAYOUTS: Final = (
    UNKE,
    COUNTERFACT,
    MQUAKE,
    MEND,
    HOREN,
    KILT,
    WIKIBIGEDIT,
    KNOWEDIT,
    EASYEDIT,
    NORMALISED,
    PLAIN,
)
"""In the order in which they are tried on a file's first row."""
EDITS_FILE: Final = "zsre_edit_data.json"
LOCALITY_FILE: Final = "zsre_train_data.json"
"""The two files of HoReN's folder: edits, and locality prompts for them by their place."""


def open_dataset(
    path: Path,
    *,
    name: str | None = None,
    layout: str | None = None,
    limit: int | None = None,
    keep_contradictory: bool = False,
) -> Dataset:
    """Return the cases of a data file.

    Parameters
    ----------
    path
        JSON lines, a JSON array, or HoReN's folder of two files.
    name
        Name of the data set; the file's folder and name when not given.
    layout
        Name of one of `LAYOUTS`; found from the fields of the first row when not given.
    limit
        Most cases, at least 1: rows are read until so many edits are there.
    keep_contradictory
        Keep edits of a prompt that has another target already; by default the first is kept.

    Raises
    ------
    InvalidArgument
        ``file_unreadable``, ``invalid_line``, ``missing_field``, ``invalid_field``, ``invalid_text``: of the file, with
        line and field. ``unknown_layout``: no layout has that name, or fits the first row. ``empty_dataset``: it has
        no edits.
    """
    log = DefectLog()
    source = _open(path)
    chosen = _named(layout) if layout is not None else _fitting(source)
    said = (name,) if name is not None else (path.stem, path.resolve().parent.name)
    usual = usual_kind(*said, chosen.name)
    gathering = Gathering(log, source.place, limit, keep_contradictory)
    rows = 0
    for row in source.rows(log):
        rows += 1
        gathering.add(_cases(row, chosen, usual))
        if gathering.is_full:
            break
    if not gathering.cases:
        raise InvalidArgument(f"{path} has no edits.", code="empty_dataset")
    cases = tuple(Tidying(gathering.cases, log, source.place).tidied())
    return Dataset(
        name=name or f"{path.resolve().parent.name}/{path.stem}",
        path=path,
        sha256=source.sha256,
        layout=chosen.name,
        rows=rows,
        cases=cases,
        defects=log.defects(kept_contradictions=keep_contradictory),
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """HoReN's folder: the locality prompt of each edit is that of the row at its place in the other file."""

    edits: RowFile
    localities: RowFile

    @property
    def place(self) -> str:
        return self.edits.place

    @property
    def sha256(self) -> str:
        return hashlib.sha256(f"{self.edits.sha256} {self.localities.sha256}".encode()).hexdigest()

    def rows(self, log: DefectLog) -> Iterator[Row]:
        localities = self.localities.rows(DefectLog())
        for row in self.edits.rows(log):
            other = next(localities, None)
            if other is None:
                message = f"{self.localities.name} has no {self.place} {row.number}: each edit needs one."
                raise InvalidArgument(message, code="missing_field")
            row.fields = {**row.fields, **{name: other.fields.get(name) for name in ("loc", "loc_ans")}}
            yield row


def _open(path: Path) -> RowFile | _Pair:
    if path.is_dir():
        return _Pair(open_rows(path / EDITS_FILE), open_rows(path / LOCALITY_FILE))
    return open_rows(path)


def _named(name: str) -> Layout:
    found = next((layout for layout in LAYOUTS if layout.name == name), None)
    if found is None:
        known = ", ".join(sorted(layout.name for layout in LAYOUTS))
        raise InvalidArgument(f"{name!r} is no layout: there are {known}.", code="unknown_layout")
    return found


def _fitting(source: RowFile | _Pair) -> Layout:
    if isinstance(source, _Pair):
        return HOREN
    row = next(source.rows(DefectLog()), None)
    if row is None:
        raise InvalidArgument(f"{source.name} has no edits.", code="empty_dataset")
    found = next((layout for layout in LAYOUTS if layout.fits(row.fields)), None)
    if found is None:
        has = ", ".join(map(repr, row.fields)) or "no field"
        known = "; ".join(f"{layout.name}: {layout.marks}" for layout in LAYOUTS)
        message = f"{source.name}, {row.where} fits no layout: it has {has}. The layouts and their fields: {known}."
        raise InvalidArgument(message, code="unknown_layout")
    return found


def _cases(row: Row, layout: Layout, usual: ProbeKind) -> list[Case]:
    try:
        cases = list(layout.read(row, usual))
    except EmptyPartError as empty:
        row.log.add(empty.kind, str(empty))
        return []
    for name in row.unread():
        row.log.unused(name)
    return cases
