"""Previews: what would become of an edit, told between two batches, without training.

Knows the registry's port; decides nothing.
"""

from datetime import datetime
from typing import Final

import structlog
import torch

from horen_vllm.core.admission import AdmissionKind
from horen_vllm.editor.codebook.prospect import Verdict
from horen_vllm.editor.editing import EditBatch
from horen_vllm.editor.working.work import Tools
from horen_vllm.errors import FailedPrecondition, HorenError, NotFound, Unavailable
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EditRecord, EditState
from horen_vllm.registry.preview_records import Collision, PreviewAnswer, PreviewTask, PreviewVerdict

_LEASE_S: Final = 30.0
"""Seconds after which another worker may take a preview."""
_NO_ID: Final = EditId("preview")
_VERDICTS: Final = {
    AdmissionKind.NEW: PreviewVerdict.NEW,
    AdmissionKind.SAME: PreviewVerdict.SAME,
    AdmissionKind.ALIAS: PreviewVerdict.ALIAS,
    AdmissionKind.SUPERSEDE: PreviewVerdict.SUPERSEDES,
}


class PreviewDesk:
    """Answers previews of codebooks of one base model.

    Parameters
    ----------
    tools
        The worker's.
    worker_id
        Its name.
    """

    def __init__(self, tools: Tools, worker_id: str) -> None:
        self._tools = tools
        self._worker_id = worker_id
        self._log = structlog.get_logger().bind(worker=worker_id)

    def answer_one(self) -> bool:
        """Answer the preview that has waited longest; return False when there is none.

        Raises
        ------
        Unavailable
            When the registry does not answer, or the codebook cannot be read.
        """
        registry, fingerprint = self._tools.registry, self._tools.editable.fingerprint
        task = registry.claim_preview(self._worker_id, fingerprint=fingerprint, lease_s=_LEASE_S)
        if task is None:
            return False
        answer = self._answer(task)
        try:
            registry.answer_preview(self._worker_id, task.preview_id, answer)
        except (NotFound, FailedPrecondition) as exc:
            # Nobody waits any more, or another worker took it over.
            self._log.info("preview dropped", code=exc.code)
        return True

    def _answer(self, task: PreviewTask) -> PreviewAnswer:
        revision = 0
        touched: tuple[Collision, ...] = ()
        try:
            book = self._tools.shelf.current(task.codebook)
            revision = book.revision
            batch = EditBatch(self._tools.editable, [_draft(task)], book, self._tools.memory)
            touched = batch.collisions(0)
            return _told(batch.judged(0), revision, touched)
        except (Unavailable, torch.AcceleratorError):
            raise
        except HorenError as exc:
            return _refused(exc.code, exc.message, revision, touched)
        except Exception as exc:  # noqa: BLE001 - an edit that is only looked at ends no worker
            self._log.exception("preview raised")
            why = f"the editor met an unexpected {type(exc).__name__}; its log has the details."
            return _refused("internal_error", why, revision, touched)


def _told(verdict: Verdict, revision: int, touched: tuple[Collision, ...]) -> PreviewAnswer:
    related = [it for it in (verdict.same_as, verdict.alias_of) if it is not None]
    return PreviewAnswer(
        verdict=_VERDICTS[verdict.kind],
        revision=revision,
        related=(*related, *verdict.supersedes),
        collisions=touched,
    )


def _refused(code: str, why: str, revision: int, touched: tuple[Collision, ...]) -> PreviewAnswer:
    return PreviewAnswer(
        verdict=PreviewVerdict.REFUSED, revision=revision, collisions=touched, refusal_code=code, refusal=why
    )


def _draft(task: PreviewTask) -> EditRecord:
    """Return the edit as it would be, had it been submitted."""
    now: datetime = task.created_at
    return EditRecord(
        edit_id=_NO_ID,
        codebook=task.codebook,
        sequence=task.sequence,
        spec=task.spec,
        state=EditState.COMMITTED,
        reason_code=None,
        reason=None,
        attempt=0,
        artifact=None,
        same_as=None,
        alias_of=None,
        supersedes=(),
        overlaps=(),
        published_revision=None,
        active=False,
        created_at=now,
        updated_at=now,
        published_at=None,
    )
