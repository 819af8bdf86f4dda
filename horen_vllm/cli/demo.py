"""``horen demo``: the whole system on the demo model, 20 edits in and out again, as a table; or its facts as a file."""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from horen_vllm.cli import demo_edits


def demo(
    home: Annotated[Path | None, typer.Option(help="Folder for the demo's state; a temporary one by default.")] = None,
    edits: Annotated[int, typer.Option(min=1, max=200, help="Facts to edit.")] = 20,
    seed: Annotated[int, typer.Option(help="Which facts.")] = 2026,
    write_edits: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Start nothing: write the facts as a file of edits, for `horen eval jsonl`."),
    ] = None,
) -> None:
    """Start everything on the demo model, edit facts, ask for them, and roll back."""
    if write_edits is not None:
        demo_edits.write_edits(write_edits, edits, seed)
        typer.echo(f"{write_edits} has {edits} edits of the demo model's facts.")
        return
    from horen_vllm.cli.demo_run import DemoRun  # noqa: PLC0415 - torch and the client load only when needed
    from horen_vllm.cli.demo_table import print_table  # noqa: PLC0415
    from horen_vllm.cli.server_command import ServerDtype  # noqa: PLC0415
    from horen_vllm.cli.stack import Stack, StackSettings  # noqa: PLC0415
    from horen_vllm.cli.up import start_stack  # noqa: PLC0415
    from horen_vllm.demo.paths import demo_model_dir  # noqa: PLC0415

    # A pipe has no width of its own, and the table needs one.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    with ExitStack() as held:
        folder = home or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="horen-demo-")))
        settings = StackSettings(
            model=demo_model_dir(), home=folder, name="demo", port=0, control_port=0, dtype=ServerDtype.FLOAT32
        )
        stack = Stack(settings)
        held.callback(stack.stop)
        start_stack(stack, console)
        report = DemoRun(stack, edits=edits, seed=seed, console=console).run()
    print_table(report, console)
    raise typer.Exit(0 if report.passed else 1)
