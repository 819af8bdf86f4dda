"""The client's calls about codebooks and their revisions."""

from collections.abc import Iterator
from typing import Any, Unpack

from horen_vllm.control import convert, convert_changes
from horen_vllm.control._pb.horen.v1 import codebooks_pb2
from horen_vllm.control.codebook_options import CodebookOptions, request_fields
from horen_vllm.control.following import Following
from horen_vllm.control.messages import CodebookView, RevisionView
from horen_vllm.control.names import OWN_TENANT, codebook_path, tenant_path
from horen_vllm.control.transport import Transport, fresh
from horen_vllm.errors import Unavailable
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.differences import ChangeRecord, DiffRecord


class CodebookCalls:
    """Part of `HorenClient`: codebooks are named by `CodebookName`, resource name or short name.

    Every call that changes something has `request_id`, by which it is made once, however often it is asked for within a
    day (a fresh one when not given, so that a call whose answer was lost is repeated safely), and `validate_only`,
    which checks everything and changes nothing. With an `etag`, it is refused when the codebook has changed since
    (Aborted ``etag_mismatch``).
    """

    _transport: Transport
    _codebooks: Any

    def create_codebook(
        self,
        codebook: CodebookName | str,
        *,
        request_id: str | None = None,
        validate_only: bool = False,
        **options: Unpack[CodebookOptions],
    ) -> CodebookView:
        """Make an empty codebook.

        Raises
        ------
        AlreadyExists
            ``codebook_exists``, also for the name of a deleted one; ``request_id_reused``.
        NotFound
            ``unknown_tenant``.
        InvalidArgument
            ``invalid_name``, ``unknown_preset``, ``threshold_required``, ``invalid_threshold``,
            ``invalid_window_ratio`` or ``invalid_parameter``.
        FailedPrecondition
            ``calibration_required``, when there is no calibration that has what is asked for.
        ResourceExhausted
            ``quota_exceeded``.
        """
        parent, _, codebook_id = codebook_path(codebook).partition("/codebooks/")
        request = convert.message_of(
            codebooks_pb2.CreateCodebookRequest,
            parent=parent,
            codebook_id=codebook_id,
            request_id=fresh(request_id),
            validate_only=validate_only,
            **request_fields(options),
        )
        return self._transport.call_again(self._codebooks.CreateCodebook, request, convert.codebook_from_proto)

    def get_codebook(self, codebook: CodebookName | str) -> CodebookView:
        """Return a codebook as it is now, also a deleted one; NotFound ``unknown_codebook``."""
        request = convert.message_of(codebooks_pb2.GetCodebookRequest, name=codebook_path(codebook))
        return self._transport.call_again(self._codebooks.GetCodebook, request, convert.codebook_from_proto)

    def list_codebooks(
        self, tenant: TenantId | str = OWN_TENANT, *, show_deleted: bool = False, page_size: int = 100
    ) -> Iterator[CodebookView]:
        """Yield the codebooks of a tenant by name, fetching a page at a time; NotFound ``unknown_tenant``."""
        request = convert.message_of(
            codebooks_pb2.ListCodebooksRequest,
            parent=tenant_path(tenant),
            page_size=page_size,
            show_deleted=show_deleted,
        )
        for page in self._transport.pages(self._codebooks.ListCodebooks, request):
            yield from map(convert.codebook_from_proto, page.codebooks)

    def delete_codebook(
        self,
        codebook: CodebookName | str,
        *,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> CodebookView:
        """Take a codebook away; its name stays taken. NotFound ``unknown_codebook``, Aborted ``etag_mismatch``."""
        request = convert.message_of(
            codebooks_pb2.DeleteCodebookRequest,
            name=codebook_path(codebook),
            etag=etag,
            request_id=fresh(request_id),
            validate_only=validate_only,
        )
        return self._transport.call_again(self._codebooks.DeleteCodebook, request, convert.codebook_from_proto)

    def undelete_codebook(
        self,
        codebook: CodebookName | str,
        *,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> CodebookView:
        """Bring a deleted codebook back as it was.

        Raises
        ------
        NotFound
            ``unknown_codebook``.
        AlreadyExists
            ``codebook_not_deleted``; ``request_id_reused``.
        Aborted
            ``etag_mismatch``.
        ResourceExhausted
            ``quota_exceeded``.
        """
        request = convert.message_of(
            codebooks_pb2.UndeleteCodebookRequest,
            name=codebook_path(codebook),
            etag=etag,
            request_id=fresh(request_id),
            validate_only=validate_only,
        )
        return self._transport.call_again(self._codebooks.UndeleteCodebook, request, convert.codebook_from_proto)

    def list_revisions(self, codebook: CodebookName | str, *, page_size: int = 100) -> Iterator[RevisionView]:
        """Yield the revisions of a codebook, oldest first, fetching a page at a time."""
        request = convert.message_of(
            codebooks_pb2.ListRevisionsRequest, parent=codebook_path(codebook), page_size=page_size
        )
        for page in self._transport.pages(self._codebooks.ListRevisions, request):
            yield from map(convert.revision_from_proto, page.revisions)

    def diff_revisions(
        self,
        codebook: CodebookName | str,
        from_revision: int,
        to_revision: int | None = None,
        *,
        page_size: int = 1000,
    ) -> DiffRecord:
        """Return what differs between two revisions, fetching a page at a time.

        Parameters
        ----------
        from_revision
            0: nothing at all.
        to_revision
            None: the current one.

        Raises
        ------
        NotFound
            ``unknown_codebook``, ``unknown_revision``; ``revision_pruned``, for one that is not kept any more.
        """
        request = convert.message_of(
            codebooks_pb2.DiffRevisionsRequest,
            name=codebook_path(codebook),
            from_revision=from_revision,
            to_revision=to_revision,
            page_size=page_size,
        )
        pages = list(self._transport.pages(self._codebooks.DiffRevisions, request))
        changes: tuple[ChangeRecord, ...] = tuple(
            convert_changes.change_from_proto(change) for page in pages for change in page.changes
        )
        return convert_changes.diff_from_proto(pages[0], changes)

    def rollback(
        self,
        codebook: CodebookName | str,
        to_revision: int,
        *,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> RevisionView:
        """Make a new revision with exactly the entries and the threshold of `to_revision`.

        Its ``serving`` says whether every live replica has it already; `wait_serving` waits for that.

        Raises
        ------
        NotFound
            ``unknown_codebook``, ``unknown_revision`` or ``revision_pruned``.
        Aborted
            ``etag_mismatch``.
        """
        request = convert.message_of(
            codebooks_pb2.RollbackCodebookRequest,
            name=codebook_path(codebook),
            to_revision=to_revision,
            etag=etag,
            request_id=fresh(request_id),
            validate_only=validate_only,
        )
        return self._transport.call_again(self._codebooks.RollbackCodebook, request, convert.revision_from_proto)

    def watch_codebook(
        self, codebook: CodebookName | str, *, after_etag: str = "", timeout_s: float | None = None
    ) -> Iterator[CodebookView]:
        """Yield the codebook now and at each change of its revision or replicas, for `timeout_s` seconds.

        A server that goes away is asked again until then.

        Parameters
        ----------
        after_etag
            Etag of the last one that is known: it is yielded only once it differs.
        """
        request = convert.message_of(
            codebooks_pb2.WatchCodebookRequest, name=codebook_path(codebook), after_etag=after_etag
        )

        def resume(message: codebooks_pb2.WatchCodebookRequest, view: CodebookView) -> None:
            message.after_etag = view.etag

        return Following(
            self._transport,
            self._codebooks.WatchCodebook,
            request,
            convert.codebook_from_proto,
            resume=resume,
            timeout_s=timeout_s,
        ).answers()

    def watch_revisions(
        self, codebook: CodebookName | str, *, after_revision: int = 0, timeout_s: float | None = None
    ) -> Iterator[RevisionView]:
        """Yield every revision after `after_revision` once, in order and without a gap, for `timeout_s` seconds.

        A server that goes away is asked again until then, from the last revision on.

        Raises
        ------
        NotFound
            ``unknown_codebook``, also once it is deleted; ``unknown_revision``, for a number that is still to come.
        """
        request = convert.message_of(
            codebooks_pb2.WatchRevisionsRequest, parent=codebook_path(codebook), after_revision=after_revision
        )

        def resume(message: codebooks_pb2.WatchRevisionsRequest, view: RevisionView) -> None:
            message.after_revision = view.number

        return Following(
            self._transport,
            self._codebooks.WatchRevisions,
            request,
            convert.revision_from_proto,
            resume=resume,
            timeout_s=timeout_s,
        ).answers()

    def wait_serving(
        self, codebook: CodebookName | str, revision: int, *, timeout_s: float | None = None
    ) -> CodebookView:
        """Return the codebook once every live replica (>= 1) serves `revision` or a later current one.

        Raises
        ------
        Unavailable
            ``wait_timeout``, after `timeout_s` seconds.
        """
        for view in self.watch_codebook(codebook, timeout_s=timeout_s):
            if view.revision >= revision and view.serving:
                return view
        message = f"revision {revision} of {codebook_path(codebook)} is not served yet after {timeout_s:g} s."
        raise Unavailable(message, code="wait_timeout")
