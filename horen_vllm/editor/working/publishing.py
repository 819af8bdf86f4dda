"""What has become of a batch's edits, on its way to the registry: entries in groups, the rest one by one.

Knows the registry's port and the artifact store; does not know how edits are made.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from horen_vllm.artifacts.store import ArtifactStore, digest_of
from horen_vllm.editor.failure import surroundings
from horen_vllm.editor.working.lease import LeaseKeeper
from horen_vllm.editor.working.metrics import Phase
from horen_vllm.editor.working.progress import BatchProgress
from horen_vllm.errors import HorenError, Unavailable
from horen_vllm.ids import EditId
from horen_vllm.registry.edit_ports import EditQueue
from horen_vllm.registry.models import Claim, Publication

_FLUSH_S: Final = 1.0
"""Seconds after which what is ready is published, though more edits of the batch are to come."""
_WRITERS: Final = 4
"""Entries that are stored at once: each waits for the disk twice."""


@dataclass(frozen=True, slots=True)
class _Made:
    claim: Claim
    publication: Publication
    data: bytes
    kind: str


@dataclass(slots=True)
class Closings:
    """Closes the edits of a batch in the registry.

    Publications wait for each other and become revisions in one transaction, in order. Whatever else becomes of an
    edit is stored at once, behind the publications before it and ahead of those after it: an edit that an outage left
    open must not be made again when its successors are published.
    """

    queue: EditQueue
    artifacts: ArtifactStore
    lease: LeaseKeeper
    progress: BatchProgress
    _made: list[_Made] = field(default_factory=list)
    _flushed: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        """Whether something has waited long enough."""
        return time.monotonic() >= self._flushed + _FLUSH_S

    def publish(self, claim: Claim, publication: Publication, data: bytes, kind: str) -> None:
        """Store an entry's file and publish it with the next group; `kind` is what the edit is counted as."""
        self._made.append(_Made(claim, publication, data, kind))

    def fail(self, claim: Claim, code: str, reason: str, *, base_revision: int | None = None) -> None:
        """Close an edit as failed, now; raises as `flush`.

        Parameters
        ----------
        base_revision
            Revision that it was judged against, where that may be the reason.
        """
        self.flush()
        edit_id = claim.edit.edit_id
        try:
            with self.progress.phase(Phase.PUBLISH):
                self.queue.fail(claim, code, reason, base_revision=base_revision)
        except HorenError as exc:
            if isinstance(exc, Unavailable) or exc.code == "revision_moved":
                raise
            # Somebody else has the edit now, or it is closed: either way it is not this worker's to fail.
            self.progress.lost([edit_id], exc.code)
        else:
            self.progress.failed(edit_id, code)
        self.lease.release([edit_id])

    def same(self, claim: Claim, same_as: EditId, kind: str) -> None:
        """Close an edit as already there, now: a later one may supersede what it is the same as; raises as `flush`."""
        self.flush()
        with self.progress.phase(Phase.PUBLISH), surroundings("closing an edit as already there"):
            self.queue.finish_same(claim, same_as)
        self.lease.release([claim.edit.edit_id])
        self.progress.closed([kind])

    def flush(self) -> None:
        """Publish everything that waits.

        Raises
        ------
        FailedPrecondition
            ``claim_lost`` or ``revision_moved``: nothing of the group was published.
        Unavailable
            When the registry does not answer; ``editor_surroundings``, when an entry cannot be stored or published.
        """
        with self.progress.phase(Phase.PUBLISH), surroundings("publishing entries"):
            self._publish_group()
        self._flushed = time.monotonic()

    def forget(self) -> None:
        """Drop everything that waits: it is to be decided again."""
        self._made.clear()

    def _publish_group(self) -> None:
        if not self._made:
            return
        self._store([made.data for made in self._made])
        claims = [made.claim for made in self._made]
        self.queue.trained(claims)
        self.queue.publish([(made.claim, made.publication) for made in self._made])
        self.lease.release(claim.edit.edit_id for claim in claims)
        self.progress.closed(made.kind for made in self._made)
        self._made.clear()

    def _store(self, files: Sequence[bytes]) -> None:
        self.queue.register_artifacts({digest_of(data): len(data) for data in files})
        with ThreadPoolExecutor(min(_WRITERS, len(files))) as writers:
            list(writers.map(self.artifacts.put, files))
