"""``horen doctor``: is this installation, model, home and running system in order?"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from horen_vllm.cli import checks
from horen_vllm.cli.connection import security
from horen_vllm.cli.control import SiteOption
from horen_vllm.cli.exits import CHECK_FAILED
from horen_vllm.cli.layout import HomeLayout
from horen_vllm.cli.output import JsonFlag, print_json


def doctor(
    *,
    model: Annotated[Path | None, typer.Option(metavar="DIR", help="Model folder to look at.")] = None,
    site: SiteOption = None,
    home: Annotated[
        Path | None, typer.Option(metavar="DIR", envvar="HOREN_HOME", help="Home to look at, and what runs in it.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", envvar="HOREN_CONTROL", help="Control plane to look at.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check the installation, and the model, home and control plane that are named; exit code 1 if a check fails."""
    todo = list(checks.installation_checks())
    if model is not None:
        todo += checks.model_checks(model, site)
    if home is not None:
        todo += checks.home_checks(HomeLayout(home))
    if control is not None:
        todo.append(("control plane", lambda: checks.control_answers(control, security().client_tls())))
    findings = []
    with Console(stderr=True).status("checking") as status:
        for name, check in todo:
            status.update(f"checking {name}")
            findings.append(checks.run_check(name, check))
    _print(findings, as_json=as_json)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(CHECK_FAILED)


def _print(findings: list[checks.Finding], *, as_json: bool) -> None:
    if as_json:
        print_json(findings)
        return
    console, width = Console(), max(len(finding.check) for finding in findings)
    for finding in findings:
        mark = "[green]OK  [/]" if finding.ok else "[red]FAIL[/]"
        console.print(f"{mark} {finding.check:<{width}}  {escape(finding.sentence)}", highlight=False, soft_wrap=True)
