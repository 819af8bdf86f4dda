"""``horen edit batch``: many edits from a file, as fast as the control plane stores them."""

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Final, Self, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from horen_vllm.cli.connection import ControlOption, HomeOption, TenantOption, codebook_of, connect
from horen_vllm.cli.edit_file import BadLine, Line, RequestIds, read_lines
from horen_vllm.cli.edit_options import TtlOption
from horen_vllm.cli.exits import CHECK_FAILED
from horen_vllm.cli.output import JsonFlag, print_json
from horen_vllm.control.messages import EditView
from horen_vllm.errors import HorenError, NotFound
from horen_vllm.registry.models import EditSpec

STDIN: Final = "-"


def batch(
    *,
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines with edits; - for standard input.")],
    codebook: Annotated[str, typer.Option("--codebook", metavar="CODEBOOK", help="Name of the codebook.")],
    ttl: TtlOption = None,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Submit the edits of a file; the same file again within a day stores none twice.

    Every line that is refused is told by file and line, and stops no other; then the exit code is 1.
    """
    name = codebook_of(codebook, tenant)
    with connect(control, home) as client, _open(file) as source:
        lines = _Lines(source, RequestIds(name, ttl))
        outcomes = client.submit_edits(name, lines.specs(), ttl_s=ttl, request_id=lines.request_id)
        with _Report(file, _count(file), as_json=as_json) as report:
            for outcome in outcomes:
                report.refuse_all(lines.bad)
                line = lines.numbers.popleft()
                if outcome.edit is not None:
                    report.store(line, outcome.edit)
                elif outcome.error is not None:
                    report.refuse(line, outcome.error)
            report.refuse_all(lines.bad)
    if report.refused:
        raise typer.Exit(CHECK_FAILED)


class _Lines:
    """The lines on their way; read by the client's thread, so what it finds is put aside for the one that prints."""

    def __init__(self, source: TextIO, ids: RequestIds) -> None:
        self._source = source
        self._ids = ids
        self.numbers: deque[int] = deque()
        """Of the edits that are not answered yet, in order."""
        self.bad: deque[BadLine] = deque()

    def specs(self) -> Iterator[EditSpec]:
        for line in read_lines(self._source):
            if isinstance(line, Line):
                self.numbers.append(line.number)
                yield line.spec
            else:
                self.bad.append(line)

    def request_id(self, _number: int, spec: EditSpec) -> str:
        return self._ids.of(spec)


class _Report:
    """Says what becomes of each line: outcomes to standard output, progress and refusals to standard error."""

    def __init__(self, file: str, total: int | None, *, as_json: bool) -> None:
        self._file = file
        self._as_json = as_json
        self._console = Console(stderr=True)
        self._started = time.monotonic()
        self._stored = 0
        self.refused = 0
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]:.0f}/s"), TimeRemainingColumn())
        # A bar in a file or a pipe is noise.
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._progress.add_task("edits", total=total, rate=0.0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: object, *_rest: object) -> None:
        self._progress.stop()
        if kind is None and not self._as_json:
            typer.echo(f"{self._stored} stored, {self.refused} refused, {self._rate():.0f} edits a second.")

    def store(self, line: int, edit: EditView) -> None:
        self._stored += 1
        if self._as_json:
            print_json({"line": line, "edit": edit.name, "state": edit.state, "code": None, "error": None})
        self._advance()

    def refuse(self, line: int, error: HorenError) -> None:
        self.refused += 1
        if self._as_json:
            print_json({"line": line, "edit": None, "state": None, "code": error.code, "error": error.message})
        else:
            sentence = " ".join(error.message.split())
            self._console.print(
                f"{self._file}:{line}: error [{error.code}]: {sentence}", markup=False, highlight=False, soft_wrap=True
            )
        self._advance()

    def refuse_all(self, bad: deque[BadLine]) -> None:
        while bad:
            line = bad.popleft()
            self.refuse(line.number, line.error)

    def _advance(self) -> None:
        self._progress.update(self._task, advance=1, rate=self._rate())

    def _rate(self) -> float:
        return (self._stored + self.refused) / max(time.monotonic() - self._started, 1e-9)


@contextmanager
def _open(file: str) -> Iterator[TextIO]:
    # Bytes that are no text are the line's fault, and told as such by the server's rules.
    opened: Any = nullcontext(sys.stdin)
    if file != STDIN:
        try:
            opened = Path(file).open(encoding="utf-8", errors="surrogateescape")  # noqa: SIM115 - closed just below
        except OSError as exc:
            raise NotFound(f"{file} cannot be read: {exc.strerror}.", code="file_unreadable") from exc
    with opened as source:
        yield source


def _count(file: str) -> int | None:
    """Return how many lines there are to come; None where that cannot be known."""
    if file == STDIN:
        return None
    with _open(file) as source:
        return sum(bool(line.strip()) for line in source)
