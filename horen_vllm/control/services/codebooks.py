"""CodebookService: make, read, follow and roll back codebooks; read calibrations."""
# ruff: noqa: N802 - the protocol names the methods.

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from horen_vllm.control import convert, convert_calibrations, limits, names, paging
from horen_vllm.control._pb.horen.v1 import codebooks_pb2, codebooks_pb2_grpc
from horen_vllm.control.backend import Backend
from horen_vllm.control.messages import CodebookView
from horen_vllm.control.parameters import chosen_parameters
from horen_vllm.control.settings import ControlSettings
from horen_vllm.control.views import Views
from horen_vllm.ids import CodebookName, parse_name
from horen_vllm.registry.ports import Registry


class CodebookService(codebooks_pb2_grpc.CodebookServiceServicer):
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
    """

    def __init__(self, registry: Registry, views: Views, backend: Backend, settings: ControlSettings) -> None:
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
        """Return one codebook."""
        name = names.requested_codebook(request.name)
        return convert.codebook_to_proto(await self._backend.call(partial(self._views.codebook, name)))

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

    async def RollbackCodebook(
        self, request: codebooks_pb2.RollbackCodebookRequest, _context: Any
    ) -> codebooks_pb2.Revision:
        """Make a new revision with the entries and the threshold of an earlier one."""
        return await self._backend.call(partial(self._rollback, request))

    async def WatchCodebook(
        self, request: codebooks_pb2.WatchCodebookRequest, _context: Any
    ) -> AsyncIterator[codebooks_pb2.Codebook]:
        """Send the codebook whenever its revision or its replicas change, until the client has enough."""
        name = names.requested_codebook(request.name)
        sent: CodebookView | None = None
        async for view in self._backend.poll(partial(self._views.codebook, name)):
            if view != sent:
                sent = view
                yield convert.codebook_to_proto(view)

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
        self._registry.get_tenant(tenant)
        settings = self._settings
        self._registry.create_codebook(
            name,
            model=settings.model,
            fingerprint=settings.fingerprint,
            site=settings.site,
            parameters=chosen_parameters(request, settings, self._registry),
        )
        return convert.codebook_to_proto(self._views.codebook(name))

    def _list(self, request: codebooks_pb2.ListCodebooksRequest) -> codebooks_pb2.ListCodebooksResponse:
        tenant = names.requested_tenant(request.parent)
        size = limits.check_page_size(request.page_size)
        after = paging.decode_token(request.page_token)
        self._registry.get_tenant(tenant)
        later = [view for view in self._views.codebooks(tenant) if view.name.codebook > after]
        token = paging.encode_token(later[size - 1].name.codebook) if len(later) > size else ""
        return codebooks_pb2.ListCodebooksResponse(
            codebooks=map(convert.codebook_to_proto, later[:size]), next_page_token=token
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
        record = self._registry.rollback(name, limits.check_revision(request.to_revision))
        return convert.revision_to_proto(self._views.revisions(name, [record])[0])
