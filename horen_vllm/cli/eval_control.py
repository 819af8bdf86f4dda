"""The control plane as a run of ``horen eval`` needs it."""

from collections.abc import Iterable, Iterator
from typing import Final
from uuid import uuid4

from horen_vllm.control.client import CodebookView, EditProgress, EditView, HorenClient
from horen_vllm.errors import InvalidArgument, NotFound, PermissionDenied, ResourceExhausted
from horen_vllm.evals.running.control import BookState, EditState, EditStatus, Submission, Submitted
from horen_vllm.registry.models import EditSpec

_PENDING: Final = (EditProgress.COMMITTED, EditProgress.TRAINING, EditProgress.TRAINED)
_PAGE: Final = 1000
_STATUS: Final = {
    **dict.fromkeys(_PENDING, EditStatus.PENDING),
    EditProgress.PUBLISHED: EditStatus.PUBLISHED,
    EditProgress.SERVING: EditStatus.PUBLISHED,
    EditProgress.FAILED: EditStatus.FAILED,
    EditProgress.INACTIVE: EditStatus.INACTIVE,
}
_PROBE: Final = "probe_failed"


class ControlPlane:
    """`EditControl` by way of the project's client.

    Parameters
    ----------
    client
        Speaks to the control plane.
    tenant
        Whose the codebooks are.
    """

    def __init__(self, client: HorenClient, tenant: str) -> None:
        self._client = client
        self._tenant = tenant

    def create(self, book: str, preset: str, threshold: float | None, *, request_id: str) -> BookState:
        """Make an empty codebook; errors as `HorenClient.create_codebook`."""
        name = self._name(book)
        return _book(self._client.create_codebook(name, preset=preset, threshold=threshold, request_id=request_id))

    def find(self, book: str) -> BookState | None:
        """Return a codebook, or None when there is none."""
        try:
            view = self._client.get_codebook(self._name(book))
        except NotFound:
            return None
        return None if view.deleted_at else _book(view)

    def submit(self, book: str, submissions: Iterable[Submission]) -> Iterator[Submitted]:
        """Store edits over one stream and yield what becomes of each.

        Raises
        ------
        HorenError
            A refusal that is no fault of the edit: a quota, a key, a server that is not there.
        """
        ids: list[str] = []

        def specs() -> Iterator[EditSpec]:
            for one in submissions:
                ids.append(one.request_id)
                yield EditSpec(prompt=one.prompt, target=one.target, subject=one.subject)

        outcomes = self._client.submit_edits(self._name(book), specs(), request_id=lambda number, _spec: ids[number])
        for outcome in outcomes:
            if outcome.error is not None and not isinstance(outcome.error, InvalidArgument):
                raise outcome.error
            yield Submitted(
                index=outcome.index,
                edit_id=outcome.edit.edit_id if outcome.edit else None,
                code=outcome.error.code if outcome.error else None,
            )

    def oldest_pending(self, book: str) -> int | None:
        """Return the sequence number of the oldest edit that is still to be trained or published."""
        edits = self._client.list_edits(self._name(book), states=_PENDING, page_size=1)
        return next((edit.sequence for edit in edits), None)

    def edits(self, book: str) -> Iterator[EditState]:
        """Yield all edits of a codebook, oldest first."""
        return map(_edit, self._client.list_edits(self._name(book), page_size=_PAGE))

    def rollback(self, book: str, revision: int, *, request_id: str) -> int:
        """Make a revision with exactly the entries of `revision`, and return its number."""
        return self._client.rollback(self._name(book), revision, request_id=request_id).number

    def same(self, book: str, first: int, second: int) -> bool:
        """Return whether two revisions have the same entries and the same threshold."""
        found = self._client.diff_revisions(self._name(book), first, second)
        return not found.changes and found.from_threshold == found.to_threshold

    def fingerprint(self) -> str:
        """Return what the control plane recognises its base model by; empty where it does not let that be asked."""
        # A codebook that is only validated has the fingerprint of today; one that is stored, that of its making.
        try:
            view = self._client.create_codebook(
                self._name(f"eval-{uuid4().hex}"), preset="cosine", threshold=0.0, validate_only=True
            )
        except (PermissionDenied, ResourceExhausted):
            return ""
        return view.fingerprint

    def _name(self, book: str) -> str:
        return f"tenants/{self._tenant}/codebooks/{book}"


def _book(view: CodebookView) -> BookState:
    # A failed probe is the edit's trouble: its answers say so. The server has the revision all the same.
    probed = {it.replica_id for it in view.problems if it.code == _PROBE and it.revision >= view.revision}
    refusal = next((it for it in view.problems if it.code != _PROBE and it.revision >= view.revision), None)
    return BookState(
        revision=view.revision,
        entries=view.entry_count,
        threshold=view.parameters.threshold,
        anchored_threshold=view.parameters.anchored_threshold if view.parameters.anchors else None,
        model=view.model,
        fingerprint=view.fingerprint,
        parameters=view.parameters.to_dict(),
        served=0 < view.replicas_total <= view.replicas_serving + len(probed),
        refusal=(refusal.code, refusal.message) if refusal else None,
    )


def _edit(view: EditView) -> EditState:
    status = _STATUS[view.state]
    ended = view.updated_at if status is EditStatus.FAILED else view.published_at
    return EditState(
        edit_id=view.edit_id,
        sequence=view.sequence,
        prompt=view.spec.prompt,
        target=view.spec.target,
        status=status,
        code=view.reason_code,
        same_as=view.same_as,
        seconds=(ended - view.created_at).total_seconds() if ended else None,
    )
