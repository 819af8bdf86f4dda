"""A result that is measured part by part: each is written when it is done, and one that fails leaves the others."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.provenance import write_result


class ResultParts:
    """Keeps a result file up to date while its parts are measured.

    Parameters
    ----------
    result
        What it begins with; ``failed`` comes to it, the errors of parts by name.
    """

    def __init__(self, out: Path, result: dict[str, Any]) -> None:
        self._out = out
        self.result = result
        self.result["failed"] = {}
        self.write()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Write the result behind a part, with its error if it has one, so that other parts still run."""
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - whatever it was, it is the part's result
            traceback.print_exc()
            self.result["failed"][name] = f"{type(exc).__name__}: {exc}"[:3000]
        self.write()

    def write(self) -> None:
        """Write what there is."""
        write_result(self._out, self.result)
