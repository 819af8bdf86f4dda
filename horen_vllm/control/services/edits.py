"""EditService: submit, read and follow edits."""
# ruff: noqa: N802 - the protocol names the methods.

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from horen_vllm.control import convert, limits, names, paging
from horen_vllm.control._pb.horen.v1 import edits_pb2, edits_pb2_grpc
from horen_vllm.control.backend import Backend
from horen_vllm.control.messages import EditProgress
from horen_vllm.control.request_keys import request_key
from horen_vllm.control.settings import ControlSettings
from horen_vllm.control.views import Views
from horen_vllm.errors import FailedPrecondition
from horen_vllm.registry.models import CodebookRecord
from horen_vllm.registry.ports import Registry


class EditService(edits_pb2_grpc.EditServiceServicer):
    """Serves ``horen.v1.EditService`` from a registry.

    Parameters
    ----------
    registry
        Where edits are stored.
    views
        What clients see of them.
    backend
        Where blocking work runs.
    settings
        The base model whose codebooks take edits.
    """

    def __init__(self, registry: Registry, views: Views, backend: Backend, settings: ControlSettings) -> None:
        self._registry = registry
        self._views = views
        self._backend = backend
        self._settings = settings

    async def SubmitEdit(self, request: edits_pb2.SubmitEditRequest, _context: Any) -> edits_pb2.Edit:
        """Store an edit; the same request id and spec again return the first one."""
        return await self._backend.call(partial(self._submit, request))

    async def GetEdit(self, request: edits_pb2.GetEditRequest, _context: Any) -> edits_pb2.Edit:
        """Return one edit."""
        name = names.requested_edit(request.name)
        return convert.edit_to_proto(await self._backend.call(partial(self._views.edit, *name)))

    async def ListEdits(self, request: edits_pb2.ListEditsRequest, _context: Any) -> edits_pb2.ListEditsResponse:
        """Return a page of a codebook's edits."""
        return await self._backend.call(partial(self._list, request))

    async def WatchEdit(self, request: edits_pb2.WatchEditRequest, _context: Any) -> AsyncIterator[edits_pb2.Edit]:
        """Send the edit whenever its state changes, until it has come as far as asked or cannot."""
        name = names.requested_edit(request.name)
        until = limits.check_until(convert.progress_from_proto(request.until) or EditProgress.SERVING)
        sent: tuple[EditProgress, str | None] | None = None
        async for view in self._backend.poll(partial(self._views.edit, *name)):
            # A probe that fails changes nothing else.
            if (view.state, view.reason_code) != sent:
                sent = (view.state, view.reason_code)
                yield convert.edit_to_proto(view)
            if view.state.reached(until):
                return

    async def RetireEdit(self, request: edits_pb2.RetireEditRequest, _context: Any) -> edits_pb2.Edit:
        """Take an edit back for good; only a rollback brings it back."""
        return await self._backend.call(partial(self._retire, request))

    def _retire(self, request: edits_pb2.RetireEditRequest) -> edits_pb2.Edit:
        parent, edit_id = names.requested_edit(request.name)
        owner = self._views.edit(parent, edit_id).codebook
        key = request_key("RetireEdit", owner.tenant, request)
        self._registry.retire_edit(edit_id, request=key, etag=request.etag or None, validate_only=request.validate_only)
        return convert.edit_to_proto(self._views.edit(owner, edit_id))

    def _submit(self, request: edits_pb2.SubmitEditRequest) -> edits_pb2.Edit:
        codebook = names.requested_codebook(request.parent)
        spec = limits.check_spec(convert.spec_from_proto(request.spec))
        key = request_key("SubmitEdit", codebook.tenant, request)
        _check_model(self._registry.get_codebook(codebook), self._settings)
        record = self._registry.submit(codebook, spec, request=key)
        return convert.edit_to_proto(self._views.edit(codebook, record.edit_id))

    def _list(self, request: edits_pb2.ListEditsRequest) -> edits_pb2.ListEditsResponse:
        codebook = names.requested_codebook(request.parent)
        size = limits.check_page_size(request.page_size)
        after = paging.decode_number(request.page_token)
        # One more than the page holds tells whether there is a next one.
        views = self._views.edits(codebook, after_sequence=after, limit=size + 1)
        more = len(views) > size
        return edits_pb2.ListEditsResponse(
            edits=map(convert.edit_to_proto, views[:size]),
            next_page_token=paging.encode_token(str(views[size - 1].sequence)) if more else "",
        )


def _check_model(codebook: CodebookRecord, settings: ControlSettings) -> None:
    # The workers beside this control plane claim edits of its base model only; others would wait for ever.
    if codebook.fingerprint != settings.fingerprint:
        message = (
            f"{codebook.name} is for the model {codebook.model!r} (fingerprint {codebook.fingerprint[:12]}), but "
            f"{settings.model!r} (fingerprint {settings.fingerprint[:12]}) is served: make a codebook for that one."
        )
        raise FailedPrecondition(message, code="fingerprint_mismatch")
