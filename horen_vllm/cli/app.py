"""The ``horen`` command: puts the groups together; heavy packages are imported by the commands that need them."""

import sys
from typing import Annotated

import typer

from horen_vllm import __version__
from horen_vllm.cli import audit, codebook, db, edit, eval, key, tenant  # noqa: A004 - its command's name
from horen_vllm.cli.calibrate import calibrate
from horen_vllm.cli.connection import secure_commands, secured
from horen_vllm.cli.control import control
from horen_vllm.cli.demo import demo
from horen_vllm.cli.doctor import doctor
from horen_vllm.cli.exits import ReportingGroup, report_unexpected
from horen_vllm.cli.explain import explain
from horen_vllm.cli.serve import serve
from horen_vllm.cli.up import up
from horen_vllm.cli.worker import worker

_PASS_ON = {"allow_extra_args": True}

app = typer.Typer(
    name="horen",
    cls=ReportingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command(context_settings=_PASS_ON)(up)
app.command(context_settings=_PASS_ON)(secured(serve))
app.command()(control)
app.command()(worker)
app.command()(calibrate)
secure_commands(edit.app, codebook.app, tenant.app, key.app, audit.app, eval.app)
app.add_typer(edit.app, name="edit")
app.add_typer(codebook.app, name="codebook")
app.add_typer(tenant.app, name="tenant")
app.add_typer(key.app, name="key")
app.add_typer(audit.app, name="audit")
app.add_typer(db.app, name="db")
app.add_typer(eval.app, name="eval")
app.command()(explain)
app.command()(secured(doctor))
app.command()(demo)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"horen {__version__}")
        raise typer.Exit


@app.callback()
def root(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Edit facts in a served LLM: HoReN as an editing runtime on vLLM."""


def main() -> None:
    """Run the command line; the console script ``horen``."""
    try:
        app()
    except Exception as error:  # noqa: BLE001 - the last resort: a line and an exit code instead of a traceback
        sys.exit(report_unexpected(error))


if __name__ == "__main__":
    main()
