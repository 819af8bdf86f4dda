"""The description of a run, ``run.json``: everything about it but the answers.

Written by the run as it goes, read by the summary, the comparison and the report. What stands here and in the records
is all that they know, so that a run can be looked at where there is no server.
"""

from datetime import datetime
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from horen_vllm.evals.reporting.files import read_model, write_whole

RUN_FILE: Final = "run.json"
RECORDS_FILE: Final = "records.jsonl"
SUMMARY_FILE: Final = "summary.json"
REPORT_FILE: Final = "report.html"
LOOK_UP: Final = "look up"
"""Part of a run in which the arm ``retrieval`` finds facts: as many as its count says."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DefectInfo(_Part):
    """One kind of defect of a data file."""

    kind: str
    count: int
    examples: tuple[str, ...] = ()
    """A few, each with its line."""
    handling: str = ""
    """What was done about them, in words."""


class FileInfo(_Part):
    """A further file of prompts."""

    path: str
    """As it may be shown: the last two parts."""
    prompts: int
    """Prompts of the file, after what `defects` says was left out."""
    defects: tuple[DefectInfo, ...] = ()


class DatasetInfo(_Part):
    """The data file that the edits came from."""

    name: str
    path: str
    """As it may be shown: the last two parts."""
    sha256: str
    layout: str = ""
    cases: int
    """Cases of the file, after what `defects` says was left out."""
    defects: tuple[DefectInfo, ...] = ()
    others: tuple[str, ...] = ()
    """Further files (ordinary prompts, ability questions), as ``path sha256``."""
    files: tuple[FileInfo, ...] = ()
    """What those further files hold; empty in a run of before this was kept."""


class AskingInfo(_Part):
    """How a run asks: it decides how long answers take, and not what they are."""

    concurrency: int = 16
    """Questions in flight."""
    timeout_s: float = 120.0
    """Longest wait for one answer."""
    attempts: int = 12
    """Times that a question is asked while the server does not answer."""
    patience_s: float = 900.0
    """Longest wait while no edit moves at all."""


class ModelInfo(_Part):
    """The served base model."""

    name: str
    tokenizer: str = ""
    """What was compared with the server's tokenizer, and the outcome; empty when nothing was."""
    fingerprint: str = ""
    """What the control plane recognises it by; empty without a control plane."""


class StreamedCase(_Part):
    """One edit of the stream, the same for every arm; its place in `RunInfo.stream` is its position."""

    case_id: str
    prompt: str
    target: str


class EditOutcome(_Part):
    """What became of one edit in one codebook."""

    position: int
    """Place of the case in the stream, from 0."""
    edit_id: str | None = None
    """None when it was never accepted."""
    answered_by: str | None = None
    """The edit that answers for it, where that is another one: it said the same already."""
    failure: str | None = None
    """Error code or reason code; None when it was served."""
    seconds: float | None = None
    """From its submission until it was served, or had failed, as far as the client saw it."""
    sequence: int | None = None
    """Its sequence number in the codebook."""


class CodebookState(_Part):
    """A codebook when the questions of a checkpoint were asked."""

    checkpoint: int
    """Edits submitted."""
    revision: int
    entries: int
    threshold: float
    anchored_threshold: float | None = None
    """Threshold of edits with a subject; None where no entry is bound to one, or when an older run did not tell."""
    memory_bytes: int | None = None
    """What its entries take in the server's memory; None when the server does not say."""
    submit_seconds: float = 0.0
    """Wall clock from the first submission since the last checkpoint until all were served or had failed."""
    resumed: int = 0
    """Edits since the last checkpoint that an earlier start of the run had submitted: the seconds leave out what that
    start took."""


class ArmInfo(_Part):
    """One who answers."""

    name: str
    """As in the records: ``base``, ``retrieval`` or a preset."""
    model: str
    """Model name of its requests."""
    preset: str | None = None
    codebook: str | None = None
    digest: str | None = None
    """Of a saved codebook, which the run did not make: the sha256 of its description."""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    """Method parameters of the codebook."""
    edits: tuple[EditOutcome, ...] = ()
    """Outcomes of the stream; empty for an arm without a codebook. Of a saved codebook: the entries of its edits."""
    superseding: tuple[EditOutcome, ...] = ()
    """Outcomes of the edits that took the place of others at the end."""
    states: tuple[CodebookState, ...] = ()
    superseded_revision: int | None = None
    """The codebook's revision once those edits were served."""
    emptied_revision: int | None = None
    """The codebook's revision after it was rolled back to nothing."""


class PhaseTime(_Part):
    """How long one part of the run took."""

    name: str
    """Such as ``submit`` or ``ask``."""
    arm: str | None = None
    checkpoint: int | None = None
    seconds: float
    count: int = 0
    """Edits or questions of it; 0 with no seconds while it has only begun."""


def resumed_note(arm: str, checkpoint: int) -> str:
    """Return how the note begins that the seconds of a checkpoint leave out what an earlier start took.

    In a run of before `CodebookState.resumed` was kept it is all that tells.
    """
    return f"The edits of {arm} to {checkpoint} were submitted in more than one go"


class RunInfo(_Part):
    """A run of `horen eval`.

    Attributes
    ----------
    name
        Name of the run; codebooks are named after it.
    command
        The command line that makes this run again.
    settings
        Every setting, given or by default.
    versions
        Package to version; the commit and Python as ``commit`` and ``python``.
    seeds
        What each seed decides, and the seed.
    stream
        The edits in the order of submission.
    asking
        How it asked, as in its first start; None in a run of before this was kept.
    memory_baseline
        Bytes that all codebooks of the server took before the run made its first one; None when it does not say.
    notes
        What a reader must know: what was left out and why, which metrics had no model, and the like.
    finished_at
        None while the run goes on, or when it was broken off.
    """

    format: Literal[1] = 1
    name: str
    command: str
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    machine: str = ""
    seeds: dict[str, int] = Field(default_factory=dict)
    dataset: DatasetInfo
    model: ModelInfo
    arms: tuple[ArmInfo, ...] = ()
    checkpoints: tuple[int, ...] = ()
    stream: tuple[StreamedCase, ...] = ()
    asking: AskingInfo | None = None
    memory_baseline: int | None = None
    notes: tuple[str, ...] = ()
    times: tuple[PhaseTime, ...] = ()
    started_at: datetime
    finished_at: datetime | None = None

    def arm(self, name: str) -> ArmInfo | None:
        """Return the arm of that name, or None."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def with_arm(self, arm: ArmInfo) -> Self:
        """Return this with `arm` in the place of the arm of the same name, or behind the others."""
        names = [known.name for known in self.arms]
        arms = self.arms if arm.name in names else (*self.arms, arm)
        return self.model_copy(update={"arms": tuple(arm if known.name == arm.name else known for known in arms)})

    def save(self, folder: Path) -> None:
        """Write ``run.json`` into `folder` in one step, so that a run that is killed leaves no half file."""
        write_whole(folder / RUN_FILE, self.model_dump_json(exclude_none=True))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return what `save` wrote into `folder`.

        Raises
        ------
        NotFound
            ``run_not_found``: there is no ``run.json``.
        InvalidArgument
            ``invalid_run``: it is not the description of a run.
        """
        return read_model(folder / RUN_FILE, cls)
