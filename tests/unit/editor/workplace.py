"""A registry and a model for real workers, each forked from the test's process, and ways for them to die."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from horen_vllm.artifact import EntryArtifact, decode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.working.worker import EditorWorker
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId
from horen_vllm.registry.models import Claim, EditRecord, EditSpec, EditState, Publication, RevisionKind
from horen_vllm.registry.store import SqlRegistry

NAME = CodebookName(DEFAULT_TENANT, "facts")
LEASE_S = 30.0
MIB = 2**20

Story = list[tuple[object, ...]]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class MortalRegistry(SqlRegistry):
    """The real registry, some time ahead; ends its process before or after the n-th call of one of its methods."""

    def __init__(self, url: str, *, ahead_s: float = 0.0, deadly: str = "", after: bool = False, nth: int = 1) -> None:
        super().__init__(url, clock=lambda: datetime.now(UTC) + timedelta(seconds=ahead_s))
        self._deadly, self._after, self._nth = deadly, after, nth

    def trained(self, claims: Sequence[Claim]) -> None:
        self._pass("trained", after=False)
        super().trained(claims)

    def publish(self, batch: Sequence[tuple[Claim, Publication]]) -> tuple[EditRecord, ...]:
        self._pass("publish", after=False)
        records = super().publish(batch)
        self._pass("publish", after=True)
        return records

    def finish_same(self, claim: Claim, same_as: EditId) -> EditRecord:
        self._pass("finish_same", after=False)
        return super().finish_same(claim, same_as)

    def fail(self, claim: Claim, code: str, reason: str, *, base_revision: int | None = None) -> EditRecord:
        self._pass("fail", after=False)
        return super().fail(claim, code, reason, base_revision=base_revision)

    def _pass(self, method: str, *, after: bool) -> None:
        if (method, after) == (self._deadly, self._after):
            self._nth -= 1
            if not self._nth:
                die()


@dataclass(frozen=True)
class Place:
    """A registry with edits, and what a worker needs to make them."""

    url: str
    folder: Path
    editable: EditableModel

    def submit(self, parameters: MethodParameters, edits: Sequence[EditSpec]) -> None:
        """Make the codebook and submit the edits to it."""
        registry, editable = SqlRegistry(self.url), self.editable
        registry.create_codebook(
            NAME, model="tiny", fingerprint=editable.fingerprint, site=editable.site, parameters=parameters
        )
        registry.close()
        self.submit_more(edits)

    def submit_more(self, edits: Sequence[EditSpec]) -> None:
        """Submit edits to the codebook."""
        registry = SqlRegistry(self.url)
        for spec in edits:
            registry.submit(NAME, spec)
        registry.close()

    def work(
        self,
        *,
        ahead_s: float = 0.0,
        batch: int = 8,
        memory: MemoryLimit | None = None,
        sabotage: Callable[[], object] = lambda: None,
        **deadly: Any,
    ) -> None:
        """Work until nothing is left to do."""
        sabotage()
        registry = MortalRegistry(self.url, ahead_s=ahead_s, **deadly)
        worker = EditorWorker(
            registry=registry,
            artifacts=ArtifactFolder(self.folder),
            editable=self.editable,
            worker_id=f"worker-{os.getpid()}",
            memory=memory or MemoryLimit(64 * MIB),
            batch=batch,
            lease_s=LEASE_S,
        )
        while worker.run_once():
            pass
        registry.close()

    def fork(self, work: Callable[..., None] | None = None, **settings: Any) -> int | None:
        """Work in a process of its own; return its exit code, negative for a signal."""
        process = multiprocessing.get_context("fork").Process(target=work or self.work, kwargs=settings)
        process.start()
        process.join(timeout=120)
        return process.exitcode

    def records(self) -> Sequence[EditRecord]:
        """Return all edits, in order."""
        registry = SqlRegistry(self.url)
        records = registry.list_edits(NAME)
        registry.close()
        return records

    def entries(self) -> dict[int, EntryArtifact]:
        """Return what was published, by sequence number."""
        folder = ArtifactFolder(self.folder)
        published = {record.sequence: record.artifact for record in self.records() if record.artifact is not None}
        return {sequence: decode_entry(folder.read(artifact)) for sequence, artifact in published.items()}

    def story(self) -> Story:
        """Return what became of every edit, whatever the edits are called, and check what always holds."""
        records = self.records()
        self._check(records)
        numbers: dict[EditId | None, int | None] = {record.edit_id: record.sequence for record in records}
        numbers[None] = None
        return [
            (
                record.state.value,
                record.reason_code,
                record.published_revision,
                record.active,
                numbers[record.same_as],
                numbers[record.alias_of],
                [numbers[edit] for edit in record.supersedes],
                [numbers[edit] for edit in record.overlaps],
            )
            for record in records
        ]

    def _check(self, records: Sequence[EditRecord]) -> None:
        """Every edit is finished, in order, with a revision of its own and no gap between them; its file is its own."""
        registry = SqlRegistry(self.url)
        revisions = [it for it in registry.list_revisions(NAME) if it.kind is RevisionKind.PUBLISH]
        registry.close()
        assert all(record.state in {EditState.PUBLISHED, EditState.FAILED} for record in records)
        assert [revision.number for revision in revisions] == list(range(2, len(revisions) + 2))
        published = [record for record in records if record.artifact is not None]
        assert [revision.edit_id for revision in revisions] == [record.edit_id for record in published]
        entries = self.entries()
        assert [entries[record.sequence].manifest.edit_id for record in published] == [it.edit_id for it in published]
