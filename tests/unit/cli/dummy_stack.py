"""``horen up`` with shell scripts as parts: run as a script with MODEL, HOME, PORT and the scripts of the parts."""

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from horen_vllm.cli.exits import report
from horen_vllm.cli.part import PartSpec
from horen_vllm.cli.stack import CONTROL, SERVER, WORKER, Stack, StackPlan, StackSettings
from horen_vllm.cli.up import run_stack
from horen_vllm.errors import HorenError

RUN = "sleep 1000 & echo $$ $! > {pids}; wait"
"""A part with a child of its own, which ends at SIGTERM and leaves the child behind."""
STUBBORN = "trap '' TERM; sleep 1000 & echo $$ $! > {pids}; while true; do wait; done"
"""A part that ignores SIGTERM."""


def dummy_parts(home: Path, scripts: Mapping[str, str]) -> Callable[[StackPlan], Sequence[PartSpec]]:
    """Return the parts of a stack in `home`; `scripts` replaces what a part runs."""

    def parts(_plan: StackPlan) -> Sequence[PartSpec]:
        return [dummy_part(home, name, scripts.get(name, RUN)) for name in (CONTROL, WORKER, SERVER)]

    return parts


def dummy_part(folder: Path, name: str, script: str = RUN) -> PartSpec:
    """Return a part that runs `script` and is ready once it has written its process ids to NAME.pids."""
    pids = folder / f"{name}.pids"
    pids.unlink(missing_ok=True)
    return PartSpec(
        name=name,
        title=f"dummy {name}",
        command=("sh", "-c", script.format(pids=shlex.quote(str(pids)))),
        log=folder / f"{name}.log",
        ready=lambda: pids.exists() and len(pids.read_text().split()) == 2,
    )


def settings(model: Path, home: Path, port: int = 0) -> StackSettings:
    """Return settings for free ports and a short grace period."""
    return StackSettings(model=model, home=home, port=port, control_port=0, ready_timeout_s=20.0, grace_s=1.0)


def main() -> int:
    """Run the stack as ``horen up`` does."""
    model, home, port, scripts = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
    try:
        run_stack(Stack(settings(model, home, port), parts=dummy_parts(home, scripts)), Console())
    except HorenError as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
