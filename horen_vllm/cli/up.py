"""``horen up``: everything on one machine, started and stopped as one."""

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.status import Status

from horen_vllm.cli.artifacts import ArtifactsOption, artifact_source
from horen_vllm.cli.control import ModelOption, NameOption, SiteOption
from horen_vllm.cli.interrupts import stop_on_signals
from horen_vllm.cli.serve import (
    CompileOption,
    DtypeOption,
    FirstScoresOption,
    KeyBudgetOption,
    LengthOption,
    PortOption,
    ValueBudgetOption,
)
from horen_vllm.cli.server_command import ServerDtype
from horen_vllm.cli.stack import DEFAULT_CONTROL_PORT, DEFAULT_PORT, TITLES, Stack, StackSettings
from horen_vllm.errors import HorenError

DEFAULT_HOME: Final = Path("horen-home")


def up(
    ctx: typer.Context,
    *,
    model: ModelOption,
    home: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help=f"Database, artifacts and logs (env: HOREN_HOME; {DEFAULT_HOME})."),
    ] = None,
    artifacts: ArtifactsOption = None,
    name: NameOption = None,
    site: SiteOption = None,
    port: PortOption = DEFAULT_PORT,
    control_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the control plane; 0: a free one.")
    ] = DEFAULT_CONTROL_PORT,
    dtype: DtypeOption = ServerDtype.AUTO,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads of the editor worker.")] = 1,
    compiled: CompileOption = False,
    max_model_len: LengthOption = None,
    key_budget_mib: KeyBudgetOption = None,
    value_budget_mib: ValueBudgetOption = None,
    first_scores: FirstScoresOption = False,
    ready_timeout: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="How long everything may take to start.")
    ] = 600.0,
) -> None:
    """Run control plane, editor worker and vLLM server on 127.0.0.1 until Ctrl-C.

    Arguments after -- go to vLLM as they are.
    """
    root = home or Path(os.environ.get("HOREN_HOME", DEFAULT_HOME))
    settings = StackSettings(
        model=model,
        home=root,
        artifacts=artifact_source(artifacts, home=home, otherwise=root).location,
        name=name,
        site=site,
        port=port,
        control_port=control_port,
        dtype=dtype,
        threads=threads,
        compiled=compiled,
        max_model_len=max_model_len,
        key_budget_mib=key_budget_mib,
        value_budget_mib=value_budget_mib,
        first_scores=first_scores,
        server_args=tuple(ctx.args),
        ready_timeout_s=ready_timeout,
    )
    run_stack(Stack(settings), Console())


def run_stack(stack: Stack, console: Console) -> None:
    """Start `stack`, say where it answers, and stop it at SIGINT or SIGTERM; raises as `Stack.start` and `wait`."""
    with stop_on_signals() as stop:
        try:
            if start_stack(stack, console, stop):
                _print_addresses(stack, console)
                _warn_of_unserved(stack, console)
                stack.wait()
        finally:
            with console.status("stopping"):
                stack.stop()
        console.print("stopped")


def start_stack(stack: Stack, console: Console, stop: threading.Event | None = None) -> bool:
    """Start `stack` with a spinner that names what is still missing; returns and raises as `Stack.start`."""
    waiting = dict(TITLES)
    with console.status(_starting(waiting)) as status:
        return stack.start(stop=stop, on_ready=lambda part: _tick(part, waiting, status, console))


def _tick(part: str, waiting: dict[str, str], status: Status, console: Console) -> None:
    console.print(f"[green]✓[/] {waiting.pop(part, part)}")
    status.update(_starting(waiting))


def _starting(waiting: dict[str, str]) -> str:
    return f"starting {', '.join(waiting.values())}"


def _print_addresses(stack: Stack, console: Console) -> None:
    body = json.dumps({"model": stack.model_name, "messages": [{"role": "user", "content": "Hello"}]})
    key = " -H 'Authorization: Bearer KEY'" if os.environ.get("HOREN_AUTH") == "keys" else ""
    lines = (
        f"OpenAI server  {stack.base_url}/v1",
        f"control plane  {stack.control_address}",
        f"logs           {stack.layout.logs}",
        "",
        f"curl {stack.base_url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'",
        "",
        "Ctrl-C stops everything.",
    )
    # Unwrapped, so that the command can be copied.
    console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)


def _warn_of_unserved(stack: Stack, console: Console) -> None:
    # Only a hint: if the control plane does not answer, `Stack.wait` says why.
    with contextlib.suppress(HorenError):
        codebooks = stack.unserved_codebooks()
        if codebooks:
            names = ", ".join(f"{codebook.name.codebook} ({codebook.model})" for codebook in codebooks)
            warning = f"warning: made for another base model or edit site, so listed but not served: {names}"
            console.print(warning, style="yellow", soft_wrap=True, markup=False, highlight=False)
