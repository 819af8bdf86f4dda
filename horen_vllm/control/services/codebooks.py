"""CodebookService: make, read, follow, compare, roll back and delete codebooks; read calibrations."""
# ruff: noqa: N802 - the protocol names the methods.

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from horen_vllm.control import convert, convert_calibrations, convert_changes, limits, names, paging
from horen_vllm.control._pb.horen.v1 import codebooks_pb2, codebooks_pb2_grpc
from horen_vllm.control.backend import Backend
from horen_vllm.control.book_files import BookFiles
from horen_vllm.control.masks import check_read_mask, masked
from horen_vllm.control.messages import RevisionView
from horen_vllm.control.parameters import chosen_parameters
from horen_vllm.control.request_keys import request_key
from horen_vllm.control.services.book_transfers import BookTransfers
from horen_vllm.control.settings import ControlSettings
from horen_vllm.control.views import Views
from horen_vllm.errors import NotFound
from horen_vllm.ids import CodebookName, parse_name
from horen_vllm.registry.models import RequestKey
from horen_vllm.registry.ports import Registry


class CodebookService(BookTransfers, codebooks_pb2_grpc.CodebookServiceServicer):
    """Serves ``horen.v1.CodebookService`` from a registry.

    Parameters
    ----------
    registry
        Where codebooks are stored.
    views
        What clients see of them.
    backend
        Where blocking work runs.
    settings
        The base model of new codebooks.
    files
        Makes and reads the files of codebooks.
    """

    def __init__(
        self, registry: Registry, views: Views, backend: Backend, settings: ControlSettings, files: BookFiles
    ) -> None:
        super().__init__(files, views, backend)
        self._registry = registry
        self._views = views
        self._backend = backend
        self._settings = settings

    async def CreateCodebook(
        self, request: codebooks_pb2.CreateCodebookRequest, _context: Any
    ) -> codebooks_pb2.Codebook:
        """Make an empty codebook for this control plane's base model."""
        return await self._backend.call(partial(self._create, request))

    async def GetCodebook(self, request: codebooks_pb2.GetCodebookRequest, _context: Any) -> codebooks_pb2.Codebook:
        """Return one codebook, also a deleted one."""
        name = names.requested_codebook(request.name)
        mask = check_read_mask(request, codebooks_pb2.Codebook)
        view = await self._backend.call(partial(self._views.codebook, name))
        return masked(convert.codebook_to_proto(view), mask)

    async def ListCodebooks(
        self, request: codebooks_pb2.ListCodebooksRequest, _context: Any
    ) -> codebooks_pb2.ListCodebooksResponse:
        """Return a page of a tenant's codebooks."""
        return await self._backend.call(partial(self._list, request))

    async def ListRevisions(
        self, request: codebooks_pb2.ListRevisionsRequest, _context: Any
    ) -> codebooks_pb2.ListRevisionsResponse:
        """Return a page of a codebook's revisions."""
        return await self._backend.call(partial(self._list_revisions, request))

    async def DeleteCodebook(
        self, request: codebooks_pb2.DeleteCodebookRequest, _context: Any
    ) -> codebooks_pb2.Codebook:
        """Take a codebook away."""
        return await self._backend.call(partial(self._delete, request))

    async def UndeleteCodebook(
        self, request: codebooks_pb2.UndeleteCodebookRequest, _context: Any
    ) -> codebooks_pb2.Codebook:
        """Bring a codebook back."""
        return await self._backend.call(partial(self._undelete, request))

    async def DiffRevisions(
        self, request: codebooks_pb2.DiffRevisionsRequest, _context: Any
    ) -> codebooks_pb2.DiffRevisionsResponse:
        """Return a page of what differs between two revisions."""
        return await self._backend.call(partial(self._diff, request))

    async def RollbackCodebook(
        self, request: codebooks_pb2.RollbackCodebookRequest, _context: Any
    ) -> codebooks_pb2.Revision:
        """Make a new revision with the entries and the threshold of an earlier one."""
        return await self._backend.call(partial(self._rollback, request))

    async def WatchCodebook(
        self, request: codebooks_pb2.WatchCodebookRequest, _context: Any
    ) -> AsyncIterator[codebooks_pb2.Codebook]:
        """Send the codebook whenever its etag differs from what was sent last, until the client has enough."""
        name = names.requested_codebook(request.name)
        sent = request.after_etag
        async for view in self._backend.poll(partial(self._views.codebook, name)):
            if view.etag != sent:
                sent = view.etag
                yield convert.codebook_to_proto(view)

    async def WatchRevisions(
        self, request: codebooks_pb2.WatchRevisionsRequest, _context: Any
    ) -> AsyncIterator[codebooks_pb2.Revision]:
        """Send each revision behind the cursor once, in order, until the client has enough."""
        name = names.requested_codebook(request.parent)
        sent = limits.check_revision(request.after_revision, "after_revision", first=0)
        await self._backend.call(partial(self._check_cursor, name, sent))

        def look() -> Sequence[RevisionView]:
            return self._revisions_after(name, sent)

        async for views in self._backend.poll(look):
            for view in views:
                sent = view.number
                yield convert.revision_to_proto(view)

    async def GetCalibration(
        self, request: codebooks_pb2.GetCalibrationRequest, _context: Any
    ) -> codebooks_pb2.Calibration:
        """Return one calibration of this control plane's base model."""
        version = names.requested_calibration(request.name)
        read = partial(self._registry.calibration, self._settings.fingerprint, version)
        return convert_calibrations.calibration_to_proto(await self._backend.call(read))

    async def ListCalibrations(
        self, request: codebooks_pb2.ListCalibrationsRequest, _context: Any
    ) -> codebooks_pb2.ListCalibrationsResponse:
        """Return a page of the calibrations of this control plane's base model."""
        return await self._backend.call(partial(self._list_calibrations, request))

    def _create(self, request: codebooks_pb2.CreateCodebookRequest) -> codebooks_pb2.Codebook:
        tenant = names.requested_tenant(request.parent)
        name = CodebookName(tenant, parse_name(request.codebook_id[: limits.MAX_NAME], "codebook"))
        key = _key("CreateCodebook", name, request)
        self._registry.get_tenant(tenant)
        settings = self._settings
        record = self._registry.create_codebook(
            name,
            model=settings.model,
            fingerprint=settings.fingerprint,
            site=settings.site,
            parameters=chosen_parameters(request, settings, self._registry),
            request=key,
            validate_only=request.validate_only,
        )
        return convert.codebook_to_proto(self._views.codebook_of(record))

    def _delete(self, request: codebooks_pb2.DeleteCodebookRequest) -> codebooks_pb2.Codebook:
        name = names.requested_codebook(request.name)
        key = _key("DeleteCodebook", name, request)
        record = self._registry.delete_codebook(
            name, etag=request.etag or None, request=key, validate_only=request.validate_only
        )
        return convert.codebook_to_proto(self._views.codebook_of(record))

    def _undelete(self, request: codebooks_pb2.UndeleteCodebookRequest) -> codebooks_pb2.Codebook:
        name = names.requested_codebook(request.name)
        key = _key("UndeleteCodebook", name, request)
        record = self._registry.undelete_codebook(
            name, etag=request.etag or None, request=key, validate_only=request.validate_only
        )
        return convert.codebook_to_proto(self._views.codebook_of(record))

    def _diff(self, request: codebooks_pb2.DiffRevisionsRequest) -> codebooks_pb2.DiffRevisionsResponse:
        name = names.requested_codebook(request.name)
        size = limits.check_page_size(request.page_size)
        # Later pages are of the revision that was the current one at the first.
        pinned, after = paging.decode_pair(request.page_token)
        diff = self._registry.diff(
            name,
            from_revision=limits.check_revision(request.from_revision, "from_revision", first=0),
            to_revision=limits.check_revision(request.to_revision, first=0) or pinned or None,
            after_sequence=after,
            limit=size + 1,
        )
        more = len(diff.changes) > size
        token = paging.encode_pair(diff.to_revision, diff.changes[size - 1].sequence) if more else ""
        return convert_changes.diff_to_proto(replace(diff, changes=diff.changes[:size]), token)

    def _check_cursor(self, name: CodebookName, number: int) -> None:
        newest = self._registry.get_codebook(name).revision
        if number > newest:
            message = f"{name} has no revision {number}: its newest is {newest}."
            raise NotFound(message, code="unknown_revision")

    def _revisions_after(self, name: CodebookName, number: int) -> Sequence[RevisionView]:
        records = self._registry.list_revisions(name, after=number)
        return self._views.revisions(name, records) if records else ()

    def _list(self, request: codebooks_pb2.ListCodebooksRequest) -> codebooks_pb2.ListCodebooksResponse:
        tenant = names.requested_tenant(request.parent)
        size = limits.check_page_size(request.page_size)
        after = paging.decode_token(request.page_token)
        mask = check_read_mask(request, codebooks_pb2.Codebook)
        self._registry.get_tenant(tenant)
        views = self._views.codebooks(tenant, deleted=request.show_deleted)
        later = [view for view in views if view.name.codebook > after]
        token = paging.encode_token(later[size - 1].name.codebook) if len(later) > size else ""
        return codebooks_pb2.ListCodebooksResponse(
            codebooks=[masked(convert.codebook_to_proto(view), mask) for view in later[:size]], next_page_token=token
        )

    def _list_revisions(self, request: codebooks_pb2.ListRevisionsRequest) -> codebooks_pb2.ListRevisionsResponse:
        name = names.requested_codebook(request.parent)
        size = limits.check_page_size(request.page_size)
        after = paging.decode_number(request.page_token)
        records = self._registry.list_revisions(name, after=after, limit=size + 1)
        token = paging.encode_token(str(records[size - 1].number)) if len(records) > size else ""
        return codebooks_pb2.ListRevisionsResponse(
            revisions=map(convert.revision_to_proto, self._views.revisions(name, records[:size])),
            next_page_token=token,
        )

    def _list_calibrations(
        self, request: codebooks_pb2.ListCalibrationsRequest
    ) -> codebooks_pb2.ListCalibrationsResponse:
        size = limits.check_page_size(request.page_size)
        after = paging.decode_number(request.page_token)
        later = [it for it in self._registry.list_calibrations(self._settings.fingerprint) if it.version > after]
        token = paging.encode_token(str(later[size - 1].version)) if len(later) > size else ""
        return codebooks_pb2.ListCalibrationsResponse(
            calibrations=map(convert_calibrations.calibration_to_proto, later[:size]), next_page_token=token
        )

    def _rollback(self, request: codebooks_pb2.RollbackCodebookRequest) -> codebooks_pb2.Revision:
        name = names.requested_codebook(request.name)
        record = self._registry.rollback(
            name,
            limits.check_revision(request.to_revision),
            etag=request.etag or None,
            request=_key("RollbackCodebook", name, request),
            validate_only=request.validate_only,
        )
        return convert.revision_to_proto(self._views.revisions(name, [record])[0])


def _key(method: str, name: CodebookName, request: Any) -> RequestKey | None:
    """Return the request's key; a dry run has none: what it asks for is still to be asked for."""
    key = request_key(method, name.tenant, request)
    return None if request.validate_only else key
