"""``horen codebook export`` and ``import``: codebooks to files and back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from horen_vllm.cli.codebook_options import CodebookArgument, DryRunFlag, RequestIdOption
from horen_vllm.cli.codebook_view import say
from horen_vllm.cli.connection import ControlOption, HomeOption, TenantOption, codebook_of, connect
from horen_vllm.cli.output import JsonFlag
from horen_vllm.errors import FailedPrecondition, InvalidArgument


def export(
    *,
    name: CodebookArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write, such as facts.zip.")],
    revision: Annotated[int | None, typer.Option(help="Revision to export (default: the current one).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a codebook as one file: its entries, what was retired, and the artifacts."""
    if file.exists() and not overwrite:
        raise FailedPrecondition(f"{file} is there already: give another name, or --overwrite.", code="file_exists")
    with connect(control, home) as client, _bar(f"exporting {name}", None) as progress, _readable(file):
        size = client.export_codebook(codebook_of(name, tenant), file, revision=revision, progress=progress)
    say({"file": str(file), "bytes": size}, f"{file} has {name} ({size / 1024**2:.1f} MiB).", as_json=as_json)


def import_(
    *,
    name: CodebookArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File that `horen codebook export` wrote.")],
    request_id: RequestIdOption = None,
    validate_only: DryRunFlag = False,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring the edits of a file into a codebook, as one revision; what was retired stays retired."""
    with _readable(file), connect(control, home) as client:
        size = file.stat().st_size
        with _bar(f"importing {file.name}", size) as progress:
            made = client.import_codebook(
                codebook_of(name, tenant),
                file,
                request_id=request_id,
                validate_only=validate_only,
                progress=progress,
            )
    sentence = (
        f"{made.added} entries {'would come' if validate_only else 'came'} in, {made.already_there} were there, "
        f"{made.kept_retired} stay retired, {made.retired} retired; revision {made.codebook.revision}."
    )
    say(made, sentence, as_json=as_json)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Say in one sentence that a file cannot be read or written.

    Raises
    ------
    InvalidArgument
        ``file_unusable``.
    """
    try:
        yield
    except OSError as exc:
        raise InvalidArgument(f"{file} cannot be used: {exc.strerror or exc}.", code="file_unusable") from exc


@contextmanager
def _bar(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how many bytes have gone."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda more: bar.update(task, advance=more)
