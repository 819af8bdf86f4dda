"""The description of a run as it grows; on the disk after every step, so that a killed run can go on."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from horen_vllm.errors import FailedPrecondition
from horen_vllm.evals.reporting.run_info import RUN_FILE, ArmInfo, PhaseTime, RunInfo
from horen_vllm.evals.running.settings import check_same


class Journal:
    """A run's ``run.json``.

    Parameters
    ----------
    folder
        The run's folder.
    fresh
        The description of a new run; where one was begun in the folder, that is gone on with.

    Raises
    ------
    FailedPrecondition
        ``run_differs``: what was begun there has other settings, another data file, another model or other saved
        codebooks.
    InvalidArgument
        ``invalid_run``: what stands there is not the description of a run.
    """

    def __init__(self, folder: Path, fresh: RunInfo) -> None:
        self._folder = folder
        self.resumed = (folder / RUN_FILE).exists()
        """Whether the run was begun by an earlier start."""
        self.info = _going_on(RunInfo.load(folder), fresh, folder) if self.resumed else fresh
        self._save()

    def arm(self, name: str) -> ArmInfo:
        """Return the arm of that name."""
        found = self.info.arm(name)
        if found is None:
            raise KeyError(name)
        return found

    def change(self, name: str, **fields: Any) -> ArmInfo:
        """Change an arm's fields and return it."""
        changed = self.arm(name).model_copy(update=fields)
        self.info = self.info.with_arm(changed)
        self._save()
        return changed

    def took(self, time: PhaseTime) -> None:
        """Add how long a part of the run took; of one that was broken off and gone on with, both times are added up."""
        same = [it for it in self.info.times if _key(it) == _key(time)]
        total = time.model_copy(
            update={
                "seconds": time.seconds + sum(it.seconds for it in same),
                "count": time.count + sum(it.count for it in same),
            }
        )
        self._save(times=(*(it for it in self.info.times if it not in same), total))

    def did(self, name: str, arm: str) -> bool:
        """Return whether a part of the run is written down for an arm."""
        return any((it.name, it.arm) == (name, arm) for it in self.info.times)

    def note(self, text: str) -> None:
        """Add what a reader must know, once."""
        if text not in self.info.notes:
            self._save(notes=(*self.info.notes, text))

    def finish(self) -> None:
        """Say that everything was asked."""
        self._save(finished_at=datetime.now(UTC))

    def _save(self, **fields: Any) -> None:
        self.info = self.info.model_copy(update=fields)
        self.info.save(self._folder)


def _going_on(begun: RunInfo, fresh: RunInfo, folder: Path) -> RunInfo:
    check_same(begun.settings, fresh.settings, folder)
    for what, before, now in (
        ("another data file", begun.dataset.sha256, fresh.dataset.sha256),
        ("other files of prompts", begun.dataset.others, fresh.dataset.others),
        ("another model", begun.model.name, fresh.model.name),
        ("other saved codebooks", _digests(begun), _digests(fresh)),
    ):
        if before != now:
            message = f"{folder} holds a run with {what}: go on with the same, or choose another folder."
            raise FailedPrecondition(message, code="run_differs")
    return begun


def _digests(info: RunInfo) -> dict[str, str | None]:
    return {arm.name: arm.digest for arm in info.arms}


def _key(time: PhaseTime) -> tuple[str, str | None, int | None]:
    return time.name, time.arm, time.checkpoint
