"""The serving benchmark's result file: it grows row by row, and a later run goes on with it."""

import json
from pathlib import Path
from typing import Any

from bench.provenance import provenance, quietness, write_result


class Results:
    """A result file.

    Rows of the same commit and settings are kept, those with errors aside, whose cells are to be measured again.

    Parameters
    ----------
    path
        The file; it is written with the first row.
    settings
        What makes two runs comparable, as plain JSON.
    again
        Whether what is there is measured anew. Until it is, it stays.

    Raises
    ------
    ValueError
        When the file has rows of another commit or other settings, and `partial`: a part must not replace the whole.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, partial: bool = False, again: bool = False) -> None:
        self._path = path
        self._again = again
        self._result: dict[str, Any] = {
            **provenance(),
            **quietness(),
            "settings": settings,
            "rows": [],
        }
        old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if old is not None and _comparable(old, self._result):
            self._result["rows"] = old["rows"]
            for name, worse in (("quiet", False), ("uncommitted_changes", True)):
                if old[name] is worse:
                    self._result[name] = worse
        elif old is not None and partial:
            raise ValueError(f"{path} has rows of another commit or other settings; choose another file.")

    def has(self, label: str) -> bool:
        """Return whether a cell needs no measuring."""
        return not self._again and any(row["cell"] == label and "error" not in row for row in self._result["rows"])

    def keep(self, row: dict[str, Any]) -> None:
        """Add a row, or replace the one of the same cell, and write the file."""
        rows = self._result["rows"]
        places = [place for place, old in enumerate(rows) if old["cell"] == row["cell"]]
        if places:
            rows[places[0]] = row
        else:
            rows.append(row)
        write_result(self._path, self._result)


def _comparable(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return bool(new["commit"]) and all(old.get(name) == new[name] for name in ("commit", "settings", "machine"))
