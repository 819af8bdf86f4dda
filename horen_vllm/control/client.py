"""The typed client of the control plane: what the CLI, the sync agent and users call."""

import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from horen_vllm.control import convert
from horen_vllm.control._pb.horen.v1 import (
    admin_pb2_grpc,
    codebooks_pb2_grpc,
    edits_pb2,
    edits_pb2_grpc,
    replicas_pb2,
    replicas_pb2_grpc,
)
from horen_vllm.control.admin_client import AdminCalls
from horen_vllm.control.book_file_client import BookFileCalls
from horen_vllm.control.calibration_client import CalibrationCalls
from horen_vllm.control.codebook_client import CodebookCalls
from horen_vllm.control.credential import key_source
from horen_vllm.control.messages import (
    CodebookView,
    CreatedKey,
    DeltaView,
    EditProgress,
    EditView,
    ImportView,
    RevisionView,
    SyncView,
)
from horen_vllm.control.names import codebook_path, edit_path
from horen_vllm.control.settings import DEFAULT_PORT
from horen_vllm.control.tls import ClientTls
from horen_vllm.control.transport import Transport
from horen_vllm.errors import Unavailable
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import EditSpec, ReplicaReport

__all__ = [
    "ClientTls",
    "CodebookView",
    "CreatedKey",
    "DeltaView",
    "EditProgress",
    "EditView",
    "HorenClient",
    "ImportView",
    "RevisionView",
    "SyncView",
]


class HorenClient(CodebookCalls, BookFileCalls, AdminCalls, CalibrationCalls):
    """Speaks to one control plane; a context manager, safe to share between threads.

    Codebooks are named by `CodebookName`, resource name or short name (``"demo"``, of the key's own tenant; of
    ``default`` where the control plane asks for no keys); edits by `EditView`, resource name or bare id (likewise).
    Every method raises the `HorenError` that the server raised, with its code, InvalidArgument ``invalid_text`` for
    text that is not Unicode, and Unavailable ``control_unavailable`` (naming the address) or ``control_timeout`` when
    the server does not answer. Reads, and `submit_edit`, are repeated for about a second before they say so.

    Parameters
    ----------
    target
        ``HOST:PORT`` of the control plane.
    timeout_s
        Deadline of a unary call in seconds.
    api_key
        Secret of the key to send with every call.
    api_key_file
        File that holds it instead; it is read again when it changes.
    tls
        Files for TLS; None: clear text, which carries a key to this machine only.

    Raises
    ------
    InvalidArgument
        ``malformed_api_key``; ``api_key_ambiguous``, for a key and a file.
    FailedPrecondition
        ``insecure_channel`` or ``invalid_tls``; at a call, ``api_key_unreadable``.

    Examples
    --------
    ::

        with HorenClient("127.0.0.1:8950") as client:
            client.create_codebook("demo", preset="cosine", threshold=0.85)
            edit = client.submit_edit("demo", EditSpec(prompt="Who leads X?", target="Y"))
            edit = client.wait_edit(edit, timeout_s=60)
    """

    def __init__(
        self,
        target: str = f"127.0.0.1:{DEFAULT_PORT}",
        *,
        timeout_s: float = 10.0,
        api_key: str | None = None,
        api_key_file: Path | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self._transport = Transport(target, timeout_s, key=key_source(api_key, api_key_file), tls=tls)
        channel = self._transport.channel
        # The generated stubs carry no types.
        self._admin = admin_pb2_grpc.AdminServiceStub(channel)  # type: ignore[no-untyped-call]
        self._edits: Any = edits_pb2_grpc.EditServiceStub(channel)  # type: ignore[no-untyped-call]
        self._codebooks: Any = codebooks_pb2_grpc.CodebookServiceStub(channel)  # type: ignore[no-untyped-call]
        self._replicas = replicas_pb2_grpc.ReplicaServiceStub(channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def submit_edit(self, codebook: CodebookName | str, spec: EditSpec, *, request_id: str | None = None) -> EditView:
        """Store an edit durably and return it; training and publication follow on their own.

        Parameters
        ----------
        request_id
            The same id with the same spec returns the first edit again; a fresh one when not given.

        Raises
        ------
        InvalidArgument
            ``empty_prompt``, ``prompt_too_long``, ``empty_target``, ``target_too_long``, ``invalid_text`` and the
            like.
        NotFound
            ``unknown_codebook``.
        FailedPrecondition
            ``fingerprint_mismatch``, for a codebook of another base model than the served one.
        AlreadyExists
            ``request_id_reused``, for the same id with another spec.
        """
        request = convert.message_of(
            edits_pb2.SubmitEditRequest,
            parent=codebook_path(codebook),
            spec=convert.spec_to_proto(spec),
            request_id=request_id or str(uuid.uuid4()),
        )
        return self._transport.call_again(self._edits.SubmitEdit, request, convert.edit_from_proto)

    def retire_edit(
        self, edit: EditView | str, *, etag: str = "", request_id: str | None = None, validate_only: bool = False
    ) -> EditView:
        """Take an edit back for good, and return it; only a rollback to a revision with it brings it back.

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
            request_id=request_id or str(uuid.uuid4()),
            validate_only=validate_only,
        )
        return self._transport.call_again(self._edits.RetireEdit, request, convert.edit_from_proto)

    def get_edit(self, edit: EditView | str) -> EditView:
        """Return an edit as it is now; NotFound ``unknown_edit``."""
        request = convert.message_of(edits_pb2.GetEditRequest, name=_edit_name(edit))
        return self._transport.call_again(self._edits.GetEdit, request, convert.edit_from_proto)

    def list_edits(self, codebook: CodebookName | str, *, page_size: int = 100) -> Iterator[EditView]:
        """Yield the edits of a codebook, oldest first, fetching a page at a time."""
        request = convert.message_of(edits_pb2.ListEditsRequest, parent=codebook_path(codebook), page_size=page_size)
        for page in self._transport.pages(self._edits.ListEdits, request):
            yield from map(convert.edit_from_proto, page.edits)

    def watch_edit(
        self,
        edit: EditView | str,
        *,
        until: EditProgress = EditProgress.SERVING,
        timeout_s: float | None = None,
    ) -> Iterator[EditView]:
        """Yield the edit now and at each change of its state.

        Ends when it is at least at `until`, has failed or is inactive, and quietly after `timeout_s` seconds.
        """
        request = convert.message_of(edits_pb2.WatchEditRequest, name=_edit_name(edit), until=until.name)
        return self._transport.stream(self._edits.WatchEdit, request, convert.edit_from_proto, timeout_s=timeout_s)

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

    def sync(
        self,
        replica_id: str,
        *,
        model: str,
        fingerprint: str,
        known: Mapping[CodebookName, int],
        wait_s: float = 0.0,
    ) -> SyncView:
        """Return what a replica does not know yet, as soon as there is something, at most `wait_s` seconds later."""
        request = convert.message_of(
            replicas_pb2.SyncRequest,
            replica_id=replica_id,
            model=model,
            fingerprint=fingerprint,
            known={str(name): revision for name, revision in known.items()},
            wait_seconds=wait_s,
        )
        return self._transport.call(self._replicas.Sync, request, convert.sync_from_proto, extra_s=max(0.0, wait_s))

    def heartbeat(
        self,
        replica_id: str,
        *,
        model: str,
        fingerprint: str,
        report: ReplicaReport,
        lease_s: float = 30.0,
    ) -> datetime:
        """Say that a replica is alive and what it serves; return when its lease ends."""
        request = convert.message_of(
            replicas_pb2.HeartbeatRequest,
            replica_id=replica_id,
            model=model,
            fingerprint=fingerprint,
            lease_seconds=lease_s,
        )
        request.MergeFrom(convert.report_to_proto(report))
        return self._transport.call_again(self._replicas.Heartbeat, request, convert.lease_from_proto)


def _edit_name(edit: EditView | str) -> str:
    return edit.name if isinstance(edit, EditView) else edit_path(edit)
