"""EditService: submit, preview, read, follow and retire edits."""
# ruff: noqa: N802 - the protocol names the methods.

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from horen_vllm.control import convert, limits, names, paging
from horen_vllm.control._pb.horen.v1 import edits_pb2, edits_pb2_grpc
from horen_vllm.control.backend import Backend
from horen_vllm.control.masks import check_read_mask, masked
from horen_vllm.control.messages import EditProgress
from horen_vllm.control.request_keys import request_key
from horen_vllm.control.services.previews import Previews
from horen_vllm.control.services.submissions import Submissions, SubmissionStream
from horen_vllm.control.settings import ControlSettings
from horen_vllm.control.views import Views
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
        self._submissions = Submissions(registry, views, backend, settings)
        self._previews = Previews(registry, self._submissions, backend)

    async def SubmitEdit(self, request: edits_pb2.SubmitEditRequest, _context: Any) -> edits_pb2.Edit:
        """Store an edit; the same request again returns the first one."""
        return await self._submissions.take(request)

    async def SubmitEdits(
        self, requests: AsyncIterator[edits_pb2.SubmitEditsRequest], _context: Any
    ) -> AsyncIterator[edits_pb2.SubmitEditsResponse]:
        """Store edits as they come and answer each one, in their order."""
        async for answer in SubmissionStream(self._submissions, requests).answers():
            yield answer

    async def PreviewEdit(self, request: edits_pb2.PreviewEditRequest, context: Any) -> edits_pb2.PreviewEditResponse:
        """Say what an edit would collide with."""
        return await self._previews.answer(request, context.time_remaining())

    async def GetEdit(self, request: edits_pb2.GetEditRequest, _context: Any) -> edits_pb2.Edit:
        """Return one edit, with the times that workers have taken it."""
        name = names.requested_edit(request.name)
        mask = check_read_mask(request, edits_pb2.Edit)
        view = await self._backend.call(partial(self._views.edit_with_attempts, *name))
        return masked(convert.edit_to_proto(view), mask)

    async def ListEdits(self, request: edits_pb2.ListEditsRequest, _context: Any) -> edits_pb2.ListEditsResponse:
        """Return a page of a codebook's edits."""
        return await self._backend.call(partial(self._list, request))

    async def WatchEdit(self, request: edits_pb2.WatchEditRequest, _context: Any) -> AsyncIterator[edits_pb2.Edit]:
        """Send the edit whenever its etag differs from what was sent last, until it is as far as asked or cannot."""
        name = names.requested_edit(request.name)
        until = limits.check_until(convert.progress_from_proto(request.until) or EditProgress.SERVING)
        sent = request.after_etag
        async for view in self._backend.poll(partial(self._views.edit, *name)):
            if view.etag != sent:
                sent = view.etag
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
        self._registry.retire_edit(
            edit_id,
            # A dry run has none: what it asks for is still to be asked for.
            request=None if request.validate_only else key,
            etag=request.etag or None,
            validate_only=request.validate_only,
        )
        return convert.edit_to_proto(self._views.edit(owner, edit_id))

    def _list(self, request: edits_pb2.ListEditsRequest) -> edits_pb2.ListEditsResponse:
        codebook = names.requested_codebook(request.parent)
        size = limits.check_page_size(request.page_size)
        after = paging.decode_number(request.page_token)
        mask = check_read_mask(request, edits_pb2.Edit)
        states = {state for number in request.states if (state := convert.progress_from_proto(number))}
        # One more than the page holds tells whether there is a next one.
        views = self._views.edits(codebook, after_sequence=after, limit=size + 1, states=states)
        more = len(views) > size
        return edits_pb2.ListEditsResponse(
            edits=[masked(convert.edit_to_proto(view), mask) for view in views[:size]],
            next_page_token=paging.encode_token(str(views[size - 1].sequence)) if more else "",
        )
