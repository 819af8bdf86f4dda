"""What has become of a batch's edits, on its way to the registry: entries in groups, the rest one by one.

Knows the registry's port and the artifact folder; does not know how edits are made.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from horen_vllm.artifact import ArtifactFolder
from horen_vllm.editor.lease import LeaseKeeper
from horen_vllm.editor.metrics import Phase
from horen_vllm.editor.progress import BatchProgress
from horen_vllm.errors import HorenError, Unavailable
from horen_vllm.ids import EditId
from horen_vllm.registry.models import Claim, Publication
from horen_vllm.registry.ports import EditQueue

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


@dataclass(frozen=True, slots=True)
class _Failure:
    claim: Claim
    code: str
    reason: str


@dataclass(slots=True)
class Closings:
    """Closes the edits of a batch in the registry.

    Publications wait for each other and become revisions in one transaction, in order. A failure waits for the
    publications before it, because they may be its reason.
    """

    queue: EditQueue
    artifacts: ArtifactFolder
    lease: LeaseKeeper
    progress: BatchProgress
    _made: list[_Made] = field(default_factory=list)
    _failures: list[_Failure] = field(default_factory=list)
    _flushed: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        """Whether something has waited long enough."""
        return time.monotonic() >= self._flushed + _FLUSH_S

    def publish(self, claim: Claim, publication: Publication, data: bytes, kind: str) -> None:
        """Store an entry's file and publish it with the next group; `kind` is what the edit is counted as."""
        self._made.append(_Made(claim, publication, data, kind))

    def fail(self, claim: Claim, code: str, reason: str) -> None:
        """Close an edit as failed behind the next group."""
        self._failures.append(_Failure(claim, code, reason))

    def same(self, claim: Claim, same_as: EditId, kind: str) -> None:
        """Close an edit as already there, now: a later one may supersede what it is the same as; raises as `flush`."""
        self.flush()
        with self.progress.phase(Phase.PUBLISH):
            self.queue.finish_same(claim, same_as)
        self.lease.release([claim.edit.edit_id])
        self.progress.closed([kind])

    def flush(self) -> None:
        """Close everything that waits.

        Raises
        ------
        FailedPrecondition
            ``claim_lost`` or ``revision_moved``: nothing of the group was published.
        Unavailable
            When the registry does not answer.
        """
        with self.progress.phase(Phase.PUBLISH):
            self._publish_group()
            while self._failures:
                self._fail(self._failures[0])
                del self._failures[0]
        self._flushed = time.monotonic()

    def forget(self) -> None:
        """Drop everything that waits: it is to be decided again."""
        self._made.clear()
        self._failures.clear()

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
        with ThreadPoolExecutor(min(_WRITERS, len(files))) as writers:
            list(writers.map(self.artifacts.put, files))

    def _fail(self, failure: _Failure) -> None:
        edit_id = failure.claim.edit.edit_id
        try:
            self.queue.fail(failure.claim, failure.code, failure.reason)
        except Unavailable:
            raise
        except HorenError as exc:
            # Somebody else has the edit now, or it is closed: either way it is not this worker's to fail.
            self.progress.lost([edit_id], exc.code)
        else:
            self.progress.failed(edit_id, failure.code)
        self.lease.release([edit_id])
