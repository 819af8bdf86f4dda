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
        if self.info.finished_at is None and (pace := _other_pace(self.info, fresh)) is not None:
            self.note(pace)

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

    def begin(self, name: str, arm: str, checkpoint: int | None = None) -> None:
        """Write down that a part of the run has begun, before it changes a codebook."""
        time = PhaseTime(name=name, arm=arm, checkpoint=checkpoint, seconds=0.0)
        if not any(_key(it) == _key(time) for it in self.info.times):
            self._save(times=(*self.info.times, time))

    def begun(self, name: str, arm: str, *, after: int | None = None) -> bool:
        """Return whether a part of the run has begun for an arm; with `after`, for a later checkpoint than that."""
        return any(
            (it.name, it.arm) == (name, arm) and (after is None or (it.checkpoint or 0) > after)
            for it in self.info.times
        )

    def did(self, name: str, arm: str) -> bool:
        """Return whether a part of the run has come to its end for an arm."""
        return any((it.name, it.arm) == (name, arm) and it.count for it in self.info.times)

    def set_memory_baseline(self, used: int | None) -> None:
        """Write down what all codebooks took before the run made one."""
        self._save(memory_baseline=used)

    def note(self, text: str) -> None:
        """Add what a reader must know, once."""
        if text not in self.info.notes:
            self._save(notes=(*self.info.notes, text))

    def tell(self, about: str, said: str | None) -> None:
        """Add a note that begins with `about`, in the place of an earlier one; None: there is nothing more to say."""
        others = tuple(note for note in self.info.notes if not note.startswith(about))
        notes = others if said is None else (*others, f"{about}{said}")
        if notes != self.info.notes:
            self._save(notes=notes)

    def finish(self) -> None:
        """Say that everything was asked."""
        self._save(finished_at=datetime.now(UTC))

    def _save(self, **fields: Any) -> None:
        self.info = self.info.model_copy(update=fields)
        self.info.save(self._folder)


def _going_on(begun: RunInfo, fresh: RunInfo, folder: Path) -> RunInfo:
    check_same(begun.settings, fresh.settings, folder)
    # A run without a control plane, or of before this was kept, has no fingerprint to compare.
    known, given = begun.model.fingerprint, fresh.model.fingerprint
    for what, before, now in (
        ("another data file", begun.dataset.sha256, fresh.dataset.sha256),
        ("other files of prompts", begun.dataset.others, fresh.dataset.others),
        ("another model", begun.model.name, fresh.model.name),
        (f"another model of the name {begun.model.name}", known or given, given or known),
        ("other saved codebooks", _digests(begun), _digests(fresh)),
    ):
        if before != now:
            message = f"{folder} holds a run with {what}: go on with the same, or choose another folder."
            raise FailedPrecondition(message, code="run_differs")
    return begun


def _other_pace(begun: RunInfo, fresh: RunInfo) -> str | None:
    """Return how a later start asks otherwise than the first; None when it does not, or that is not known."""
    if begun.asking is None or fresh.asking is None:
        return None
    before, now = begun.asking.model_dump(), fresh.asking.model_dump()
    changed = [f"{name} {now[name]:g} (before: {before[name]:g})" for name in now if before[name] != now[name]]
    return f"Gone on with {', '.join(changed)}: times were not all measured alike." if changed else None


def _digests(info: RunInfo) -> dict[str, str | None]:
    return {arm.name: arm.digest for arm in info.arms}


def _key(time: PhaseTime) -> tuple[str, str | None, int | None]:
    return time.name, time.arm, time.checkpoint
