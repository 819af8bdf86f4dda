"""The client's calls about edits."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from horen_vllm.control import convert, convert_previews
from horen_vllm.control._pb.horen.v1 import edits_pb2
from horen_vllm.control.following import Following
from horen_vllm.control.messages import EditProgress, EditView, PreviewView, SubmitOutcome
from horen_vllm.control.names import codebook_path, edit_path
from horen_vllm.control.stamps import duration_of
from horen_vllm.control.submitting import SubmitStream
from horen_vllm.control.transport import Transport, fresh
from horen_vllm.errors import InvalidArgument, Unavailable
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.models import EditSpec


class EditCalls:
    """Part of `HorenClient`: edits are named by `EditView`, resource name or bare id."""

    _transport: Transport
    _edits: Any

    def submit_edit(
        self,
        codebook: CodebookName | str,
        spec: EditSpec,
        *,
        ttl_s: float | None = None,
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> EditView:
        """Store an edit durably and return it; training and publication follow on their own.

        Parameters
        ----------
        ttl_s
            Seconds after which it is retired by itself, 1 to ten years; None: never.
        request_id
            The same id with the same request within a day returns the first edit again; a fresh one when not given.
        validate_only
            Everything is checked and nothing stored; the answer has no id.

        Raises
        ------
        InvalidArgument
            ``empty_prompt``, ``prompt_too_long``, ``empty_target``, ``target_too_long``, ``invalid_text``,
            ``invalid_ttl`` and the like; its `violations` tell all that is wrong.
        NotFound
            ``unknown_codebook``.
        FailedPrecondition
            ``fingerprint_mismatch``, for a codebook of another base model than the served one.
        AlreadyExists
            ``request_id_reused``, for the same id with another request.
        ResourceExhausted
            ``quota_exceeded``; its `retry_after_s` tells when it may succeed.
        """
        request = _submission(codebook, spec, ttl_s, fresh(request_id), validate_only=validate_only)

        def read(message: edits_pb2.Edit) -> EditView:
            # The draft of an edit has no name that would say whose it is.
            return convert.edit_from_proto(message, None if message.name else _named(request.parent))

        return self._transport.call_again(self._edits.SubmitEdit, request, read)

    def submit_edits(
        self,
        codebook: CodebookName | str,
        specs: Iterable[EditSpec],
        *,
        ttl_s: float | None = None,
        request_id: Callable[[int, EditSpec], str] | None = None,
    ) -> Iterator[SubmitOutcome]:
        """Store many edits of one codebook, as `specs` yields them, and yield what becomes of each, in order.

        An edit that is refused stops no other. When the server goes away, what was not answered is sent again for about
        a second, and stored once. `specs` is read from another thread, and no faster than the server takes the edits.

        Parameters
        ----------
        ttl_s
            As for `submit_edit`, for all of them.
        request_id
            Returns the request id of the edit with this number, from 0; None: fresh ones.

        Raises
        ------
        HorenError
            What ends the whole, such as a key that opens another tenant; what `specs` raised, behind the outcomes of
            the edits before it.
        """
        requests = (
            edits_pb2.SubmitEditsRequest(
                edit=_submission(codebook, spec, ttl_s, fresh(request_id(number, spec) if request_id else None))
            )
            for number, spec in enumerate(specs)
        )
        return SubmitStream(self._transport, self._edits.SubmitEdits, requests).outcomes()

    def preview_edit(self, codebook: CodebookName | str, spec: EditSpec, *, timeout_s: float = 30.0) -> PreviewView:
        """Return what an edit would collide with, as a worker finds it without training; nothing of it is stored.

        Raises
        ------
        Unavailable
            ``preview_timeout``, when no worker has answered within `timeout_s` seconds.
        InvalidArgument, NotFound, FailedPrecondition
            As `submit_edit`.
        """
        request = convert.message_of(
            edits_pb2.PreviewEditRequest, parent=codebook_path(codebook), spec=convert.spec_to_proto(spec)
        )
        return self._transport.call_for(
            self._edits.PreviewEdit, request, convert_previews.preview_from_proto, timeout_s=timeout_s
        )

    def retire_edit(
        self, edit: EditView | str, *, etag: str = "", request_id: str | None = None, validate_only: bool = False
    ) -> EditView:
        """Take an edit back for good, and return it; only a rollback to a revision with it brings it back.

        Parameters
        ----------
        etag
            Of the edit as it was seen: when it has changed since, it is not retired.
        request_id, validate_only
            As for `submit_edit`.

        Raises
        ------
        NotFound
            ``unknown_edit``.
        Aborted
            ``etag_mismatch``.
        AlreadyExists
            ``request_id_reused``.
        """
        request = convert.message_of(
            edits_pb2.RetireEditRequest,
            name=_edit_name(edit),
            etag=etag,
            request_id=fresh(request_id),
            validate_only=validate_only,
        )
        return self._transport.call_again(self._edits.RetireEdit, request, convert.edit_from_proto)

    def get_edit(self, edit: EditView | str) -> EditView:
        """Return an edit as it is now, with the times that workers have taken it; NotFound ``unknown_edit``."""
        request = convert.message_of(edits_pb2.GetEditRequest, name=_edit_name(edit))
        return self._transport.call_again(self._edits.GetEdit, request, convert.edit_from_proto)

    def list_edits(
        self, codebook: CodebookName | str, *, states: Collection[EditProgress] = (), page_size: int = 100
    ) -> Iterator[EditView]:
        """Yield the edits of a codebook (in one of `states`, when given), oldest first, fetching a page at a time."""
        request = convert.message_of(
            edits_pb2.ListEditsRequest,
            parent=codebook_path(codebook),
            page_size=page_size,
            states=[state.name for state in states],
        )
        for page in self._transport.pages(self._edits.ListEdits, request):
            yield from map(convert.edit_from_proto, page.edits)

    def watch_edit(
        self,
        edit: EditView | str,
        *,
        until: EditProgress = EditProgress.SERVING,
        after_etag: str = "",
        timeout_s: float | None = None,
    ) -> Iterator[EditView]:
        """Yield the edit now and at each change of its state.

        Ends when it is at least at `until`, has failed or is inactive, and quietly after `timeout_s` seconds. A server
        that goes away is asked again until then.

        Parameters
        ----------
        after_etag
            Etag of the last one that is known: it is yielded only once it differs.
        """
        request = convert.message_of(
            edits_pb2.WatchEditRequest, name=_edit_name(edit), until=until.name, after_etag=after_etag
        )

        def resume(message: edits_pb2.WatchEditRequest, view: EditView) -> None:
            message.after_etag = view.etag

        return Following(
            self._transport,
            self._edits.WatchEdit,
            request,
            convert.edit_from_proto,
            resume=resume,
            timeout_s=timeout_s,
        ).answers()

    def wait_edit(
        self,
        edit: EditView | str,
        *,
        until: EditProgress = EditProgress.SERVING,
        timeout_s: float | None = None,
    ) -> EditView:
        """Return the edit once it is at least at `until`, has failed or is inactive: look at its ``state``.

        Raises
        ------
        Unavailable
            ``wait_timeout``, after `timeout_s` seconds; says how far the edit had come.
        """
        view: EditView | None = None
        for view in self.watch_edit(edit, until=until, timeout_s=timeout_s):
            if view.state.reached(until):
                return view
        state = "unknown" if view is None else view.state.name
        message = f"{_edit_name(edit)} is not {until.name} after {timeout_s:g} s: it is {state}."
        raise Unavailable(message, code="wait_timeout")


def _submission(
    codebook: CodebookName | str,
    spec: EditSpec,
    ttl_s: float | None,
    request_id: str,
    *,
    validate_only: bool = False,
) -> edits_pb2.SubmitEditRequest:
    request = convert.message_of(
        edits_pb2.SubmitEditRequest,
        parent=codebook_path(codebook),
        spec=convert.spec_to_proto(spec),
        request_id=request_id,
        validate_only=validate_only,
    )
    if ttl_s is not None:
        try:
            request.ttl.CopyFrom(duration_of(ttl_s))
        except (ValueError, OverflowError) as exc:
            raise InvalidArgument(f"ttl is {ttl_s}; no duration is that.", code="invalid_ttl") from exc
    return request


def _named(path: str) -> CodebookName:
    _, tenant, _, codebook = path.split("/")
    return CodebookName(TenantId(tenant), codebook)


def _edit_name(edit: EditView | str) -> str:
    return edit.name if isinstance(edit, EditView) else edit_path(edit)
