"""What the agent of an engine knows, as a file that the engine's other API servers read."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from horen_vllm.core.presets import MethodParameters
from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import FailedProbe, RefusedRevision


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A question by which a replica asks its own engine whether an edit holds."""

    edit_id: str
    prompt_ids: tuple[int, ...]
    """The edit's own prompt, as ``/v1/completions`` tokenises it."""
    target_ids: tuple[int, ...]
    """What greedy decoding must answer, without the end token."""

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Probe":
        """Read a probe's plain fields (``dataclasses.asdict``)."""
        ids = {name: tuple(fields[name]) for name in ("prompt_ids", "target_ids")}
        return cls(edit_id=fields["edit_id"], **ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an update is not served."""

    revision: int
    """Revision that was refused."""
    code: str
    message: str

    def public(self, name: CodebookName) -> RefusedRevision:
        """Return what the control plane is told."""
        return RefusedRevision(codebook=name, revision=self.revision, code=self.code, message=self.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFailure:
    """An edit that is served but does not answer its own prompt."""

    probe: Probe
    base: int
    """Revision that the update came from."""
    revision: int
    """Revision that the update led to."""
    reason: str

    def public(self, name: CodebookName) -> FailedProbe:
        """Return what the control plane is told."""
        edit_id = EditId(self.probe.edit_id)
        return FailedProbe(codebook=name, edit_id=edit_id, base=self.base, revision=self.revision, reason=self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookState:
    """One codebook on this engine."""

    applied: int = 0
    """Revision of the agent's epoch that every worker serves; 0: none, whatever else they have."""
    probed: int = 0
    """Revision up to which probes have been asked; those that failed are in `failed`."""
    latest: int = 0
    """Highest revision that the control plane has told of."""
    owed: int = 0
    """Revision below which no request is answered: others may have called it SERVING while this server was away.

    1 with nothing applied: what the workers have is of another epoch.
    """
    parameters: MethodParameters | None = None
    """Of the applied revision."""
    entries: int = 0
    """Entries in the latest revision."""
    without_probe: int = 0
    """Entries of the last update that carry no prompt to be asked by."""
    refused: Refusal | None = None
    failed: tuple[ProbeFailure, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentState:
    """Everything that another process needs to serve requests, and to take over."""

    codebooks: Mapping[CodebookName, CodebookState] = field(default_factory=dict)
    confirmed_at: float | None = None
    """When the last heartbeat was sent that the control plane took, on this machine's monotonic clock."""
    epoch: str = ""
    """Epoch of the registry that the revisions are of; empty before the first word of it."""
    ready: bool = False
    """Whether the revisions that were current at start-up have been loaded or refused."""
    tickets: tuple[str, ...] = ()
    """Updates on their way into the workers."""

    def to_json(self) -> str:
        """Return the state as text."""
        fields = asdict(replace(self, codebooks={}))
        fields["codebooks"] = {str(name): _plain(state) for name, state in self.codebooks.items()}
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> "AgentState":
        """Read what `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        codebooks = {CodebookName.parse(name): _codebook(state) for name, state in fields["codebooks"].items()}
        return cls(**{**fields, "codebooks": codebooks, "tickets": tuple(fields["tickets"])})


class StateFile:
    """The file through which an agent tells the other processes of its engine.

    Parameters
    ----------
    folder
        From `election.run_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.json"
        # Kept open: as long as it is, no later file can have its inode.
        self._seen: TextIO | None = None

    def write(self, state: AgentState) -> None:
        """Replace the file's content at once."""
        handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".state-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(state.to_json())
        Path(temporary).replace(self._path)

    def changed(self) -> AgentState | None:
        """Return the state if it has been written since the last call; it costs one ``stat`` if not."""
        try:
            if self._seen is not None and os.path.samestat(self._path.stat(), os.fstat(self._seen.fileno())):
                return None
            file = self._path.open(encoding="utf-8")
        except FileNotFoundError:
            return None
        if self._seen is not None:
            self._seen.close()
        self._seen = file
        return AgentState.from_json(file.read())


def _plain(state: CodebookState) -> dict[str, Any]:
    parameters = state.parameters.to_dict() if state.parameters else None
    return {**asdict(replace(state, parameters=None)), "parameters": parameters}


def _codebook(fields: dict[str, Any]) -> CodebookState:
    refused, parameters = fields["refused"], fields["parameters"]
    decoded = {
        "parameters": MethodParameters.from_dict(parameters) if parameters else None,
        "refused": Refusal(**refused) if refused else None,
        "failed": tuple(ProbeFailure(**{**it, "probe": Probe.from_json(it["probe"])}) for it in fields["failed"]),
    }
    return CodebookState(**{**fields, **decoded})
