"""Parts yield the processor as they were told to, within their session and against others."""

import dataclasses
import os
from pathlib import Path

import pytest

from horen_vllm.cli.part import Part
from horen_vllm.cli.stack import CONTROL, SERVER, WORKER, Stack, StackPlan, stack_parts

from .dummy_stack import dummy_part, settings
from .processes import eventually, pids_of


def session_niceness(pid: int) -> int | None:
    """Return the nice value of a process's session; None where the kernel has no such thing."""
    group = Path(f"/proc/{pid}/autogroup")
    return int(group.read_text().split()[-1]) if group.exists() and group.read_text().strip() else None


@pytest.mark.parametrize("lowered", [0, 3])
def test_a_part_and_its_children_run_at_its_priority(tmp_path: Path, lowered: int) -> None:
    part = Part(dataclasses.replace(dummy_part(tmp_path, "one"), niceness=lowered))
    part.start()
    try:
        assert eventually(part.spec.ready)
        own = os.getpriority(os.PRIO_PROCESS, 0)
        for pid in pids_of(tmp_path):
            assert os.getpriority(os.PRIO_PROCESS, pid) == own + lowered
            assert session_niceness(pid) in {lowered, None}
    finally:
        part.kill()


def test_the_control_plane_comes_first(model_folder: Path, tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    def parts(plan: StackPlan) -> list[object]:
        seen.update((spec.name, spec.niceness) for spec in stack_parts(plan))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stack(settings(model_folder, tmp_path / "home"), parts=parts).start()  # type: ignore[arg-type]
    assert 0 == seen[CONTROL] < seen[SERVER] == seen[WORKER]
