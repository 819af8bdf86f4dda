"""The work on one batch: prepare, train, then make and close its edits in order, until none is open.

Knows the registry's port; does not claim, and does not decide what to do when the batch as a whole cannot be made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from horen_vllm.artifact import encode_entry
from horen_vllm.artifacts.store import ArtifactStore, digest_of
from horen_vllm.editor.codebook.book import EditorCodebook, Entry
from horen_vllm.editor.editing import EditBatch, EditOutcome
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.working.books import BookShelf
from horen_vllm.editor.working.lease import LeaseKeeper
from horen_vllm.editor.working.metrics import Phase
from horen_vllm.editor.working.progress import BatchProgress
from horen_vllm.editor.working.publishing import Closings
from horen_vllm.errors import FailedPrecondition, HorenError, InvalidArgument, Unavailable
from horen_vllm.registry.models import Claim, EntryRef, Publication
from horen_vllm.registry.ports import Registry

_TRIES: Final = 5
"""Times that an edit is decided although its codebook moves under it, before it is failed."""
_SOMEBODY_FASTER: Final = frozenset({"revision_moved", "claim_lost"})
_ANSWERED: Final = "the model gives the target without any value, in every context of the edit."


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a worker uses for every batch."""

    registry: Registry
    artifacts: ArtifactStore
    editable: EditableModel
    shelf: BookShelf
    memory: MemoryLimit


class BatchWork:
    """Some edits of one codebook, from claims to revisions.

    Parameters
    ----------
    tools
        What to work with.
    claims
        The edits, by sequence.
    lease
        Keeps their claims; a claim that it lost is left alone.
    progress
        Is told what becomes of them.
    """

    def __init__(self, tools: Tools, claims: Sequence[Claim], lease: LeaseKeeper, progress: BatchProgress) -> None:
        self._tools = tools
        self._claims = tuple(claims)
        self._name = claims[0].edit.codebook
        self._lease = lease
        self._progress = progress
        self._closings = Closings(tools.registry, tools.artifacts, lease, progress)

    @property
    def open(self) -> tuple[Claim, ...]:
        """The claims that are held and not closed, in order."""
        return tuple(claim for claim in self._claims if claim in self._lease)

    def run(self) -> None:
        """Close every edit.

        When the codebook moves meanwhile, or a claim is lost, what is still open is decided anew against the codebook
        as it is then, without training again.

        Raises
        ------
        EditFailed
            ``out_of_memory``, of one edit among several: what the others hold may be what it lacks.
        Unavailable
            When the registry does not answer, the codebook cannot be read (`BookShelf.current`), or an entry cannot be
            stored (`Closings.flush`).
        """
        book = self._book()
        batch = self._prepared(book)
        tries = 0
        while self.open:
            before = len(self.open)
            try:
                self._close_open(batch, book, together=not tries)
            except FailedPrecondition as exc:
                if exc.code not in _SOMEBODY_FASTER:
                    raise
                self._closings.forget()
                self._tools.shelf.drop(self._name)
                self._lease.refresh()
                tries = tries + 1 if len(self.open) == before else 1
                if tries == _TRIES:
                    self._closings.fail(self.open[0], exc.code, exc.message)
                    tries = 1
                book = self._book()
                batch.against(book)

    def fail_open(self, code: str, reason: str) -> None:
        """Close every edit that is still open as failed, for one reason."""
        self._closings.forget()
        for claim in self.open:
            self._closings.fail(claim, code, reason)

    def _book(self) -> EditorCodebook:
        with self._progress.phase(Phase.LOAD):
            return self._tools.shelf.current(self._name)

    def _prepared(self, book: EditorCodebook) -> EditBatch:
        tools = self._tools
        with self._progress.phase(Phase.PREPARE):
            batch = EditBatch(tools.editable, [claim.edit for claim in self._claims], book, tools.memory)
        with self._progress.phase(Phase.TRAIN):
            batch.train(self._progress.training)
        return batch

    def _close_open(self, batch: EditBatch, book: EditorCodebook, *, together: bool) -> None:
        for index, claim in enumerate(self._claims):
            if claim not in self._lease:
                continue
            self._decide(batch, book, index, claim)
            # Once the codebook has moved, smaller groups are less likely to meet the next move.
            if not together or self._closings.due:
                self._closings.flush()
        self._closings.flush()

    def _decide(self, batch: EditBatch, book: EditorCodebook, index: int, claim: Claim) -> None:
        try:
            with self._progress.phase(Phase.MAKE):
                outcome = batch.make(index)
        except HorenError as exc:
            crowded = exc.code == "out_of_memory" and len(self._claims) > 1
            if crowded or isinstance(exc, Unavailable):
                self._closings.flush()
                raise
            # Any other failure may be due to an entry of this revision.
            inherent = isinstance(exc, InvalidArgument)
            self._closings.fail(claim, exc.code, exc.message, base_revision=None if inherent else book.revision)
        except Exception:
            # The edits before this one are as they should be.
            self._closings.flush()
            raise
        else:
            self._close(claim, outcome, book)

    def _close(self, claim: Claim, outcome: EditOutcome, book: EditorCodebook) -> None:
        if outcome.same_as is not None:
            self._closings.same(claim, outcome.same_as, outcome.kind)
            return
        assert outcome.artifact is not None, "an outcome that is not SAME has an entry"
        edit, data = claim.edit, encode_entry(outcome.artifact)
        ref = EntryRef(edit_id=edit.edit_id, sequence=edit.sequence, artifact=digest_of(data))
        book.add(Entry(ref, outcome.artifact), outcome.supersedes, outcome.threshold)
        self._closings.publish(claim, _publication(outcome, ref.artifact), data, outcome.kind)


def _publication(outcome: EditOutcome, digest: str) -> Publication:
    return Publication(
        artifact=digest,
        base_revision=outcome.base_revision,
        supersedes=outcome.supersedes,
        alias_of=outcome.alias_of,
        overlaps=outcome.overlaps,
        threshold=outcome.threshold,
        reason_code="already_answered" if outcome.already_answered else None,
        reason=_ANSWERED if outcome.already_answered else None,
    )
