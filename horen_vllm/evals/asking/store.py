"""The records of a run: a file of JSON lines that only grows."""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from horen_vllm.errors import Aborted, DataLoss
from horen_vllm.evals.records import Record, as_line, from_line


class RecordStore:
    """A run's ``records.jsonl``, open for more; one process at a time.

    A line that was being written when the process ended is cut off, and its question asked again: `repaired` says
    so. Records come back by `read_records`.

    Parameters
    ----------
    path
        The file; made, with its folder, when it is not there.

    Raises
    ------
    Aborted
        ``run_in_use``, when another process has it open.
    DataLoss
        ``records_damaged``, naming file and line, when a line other than the last is no record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._lock = Lock()
        try:
            self._claim()
            self._ids, end = _scan(path)
            self.repaired = end < path.stat().st_size
            """Whether a torn last line was cut off."""
            self._file.truncate(end)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, question_id: object) -> bool:
        return question_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def append(self, record: Record) -> None:
        """Add a record, readable by others when this returns; any thread may call.

        Raises
        ------
        ValueError
            When the file has an answer to the same question.
        """
        line = json.dumps(as_line(record), ensure_ascii=False, allow_nan=False)
        # `json` reads what this writes of half a surrogate pair, which a data set may hold.
        data = line.encode("utf-8", "surrogatepass")
        with self._lock:
            if record.question.question_id in self._ids:
                raise ValueError(f"question {record.question.question_id} is answered already")
            self._file.write(data + b"\n")
            self._file.flush()
            self._ids.add(record.question.question_id)

    def close(self) -> None:
        """Put everything on the disk and let others open the file."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def _claim(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            message = f"another process is writing to {self.path}."
            raise Aborted(message, code="run_in_use") from exc


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a run in the order of their writing, also while it goes on; a torn last line is left out.

    Raises
    ------
    DataLoss
        ``records_damaged``, naming file and line.
    """
    for record, _ in _parsed(path):
        yield record


def _scan(path: Path) -> tuple[set[str], int]:
    """Return the ids of the questions that are answered, and where the last whole line ends."""
    ids, whole = set(), 0
    for record, end in _parsed(path):
        ids.add(record.question.question_id)
        whole = end
    return ids, whole


def _parsed(path: Path) -> Iterator[tuple[Record, int]]:
    """Yield each whole record and the offset behind its line."""
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = from_line(json.loads(line))
            except (KeyError, TypeError, ValueError, AttributeError) as exc:
                # Not our own doing unless it is the last: a machine that went down may have kept part of a write.
                if not file.read(1):
                    return
                message = f"{path}, line {number} is no record: {exc!r}."
                raise DataLoss(message, code="records_damaged") from exc
            end += len(line)
            yield record, end
