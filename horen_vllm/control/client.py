"""The typed client of the control plane: what the CLI, the sync agent and users call."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from horen_vllm.control import convert
from horen_vllm.control._pb.horen.v1 import (
    admin_pb2_grpc,
    codebooks_pb2_grpc,
    edits_pb2_grpc,
    replicas_pb2,
    replicas_pb2_grpc,
)
from horen_vllm.control.admin_client import AdminCalls
from horen_vllm.control.book_file_client import BookFileCalls
from horen_vllm.control.calibration_client import CalibrationCalls
from horen_vllm.control.codebook_client import CodebookCalls
from horen_vllm.control.credential import key_source
from horen_vllm.control.edit_client import EditCalls
from horen_vllm.control.messages import (
    CodebookView,
    CreatedKey,
    DeltaView,
    EditProgress,
    EditView,
    ImportView,
    PreviewView,
    QuotaView,
    RevisionView,
    SubmitOutcome,
    SyncView,
)
from horen_vllm.control.settings import DEFAULT_PORT
from horen_vllm.control.tls import ClientTls
from horen_vllm.control.transport import Transport
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import ReplicaReport

__all__ = [
    "ClientTls",
    "CodebookView",
    "CreatedKey",
    "DeltaView",
    "EditProgress",
    "EditView",
    "HorenClient",
    "ImportView",
    "PreviewView",
    "QuotaView",
    "RevisionView",
    "SubmitOutcome",
    "SyncView",
]


class HorenClient(EditCalls, CodebookCalls, BookFileCalls, AdminCalls, CalibrationCalls):
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

    def sync(
        self,
        replica_id: str,
        *,
        model: str,
        fingerprint: str,
        known: Mapping[CodebookName, int],
        epoch: str = "",
        wait_s: float = 0.0,
    ) -> SyncView:
        """Return what a replica does not know yet, as soon as there is something, at most `wait_s` seconds later.

        `epoch` is what `known` is of, as the last answer said. When the registry is of another one, the answer comes at
        once: everything from nothing, and which of `known` is not there. What is too much for one answer is asked for
        in several.
        """
        news = self._sync(replica_id, model, fingerprint, known, epoch, wait_s)
        while news.more:
            told = {delta.codebook.name: delta.revision for delta in news.deltas}
            before = known if epoch == news.epoch else {}
            further = self._sync(replica_id, model, fingerprint, {**before, **told}, news.epoch, 0.0)
            # Of another epoch all begins anew: what was told before is of a registry that is not there any more.
            news = news.followed_by(further) if further.epoch == news.epoch else further
        return news

    def _sync(
        self,
        replica_id: str,
        model: str,
        fingerprint: str,
        known: Mapping[CodebookName, int],
        epoch: str,
        wait_s: float,
    ) -> SyncView:
        request = convert.message_of(
            replicas_pb2.SyncRequest,
            replica_id=replica_id,
            model=model,
            fingerprint=fingerprint,
            known={str(name): revision for name, revision in known.items()},
            wait_seconds=wait_s,
            epoch=epoch,
        )
        return self._transport.call(self._replicas.Sync, request, convert.sync_from_proto, extra_s=max(0.0, wait_s))

    def epoch(self) -> str:
        """Return the registry's epoch: another one after a restore from a backup."""
        # No codebook is of this base model, so nothing else is told.
        return self.sync("epoch", model="", fingerprint="none", known={}).epoch

    def heartbeat(
        self,
        replica_id: str,
        *,
        model: str,
        fingerprint: str,
        epoch: str,
        report: ReplicaReport,
        lease_s: float = 30.0,
    ) -> datetime:
        """Say that a replica is alive and what it serves, by revisions of `epoch`; return when its lease ends.

        FailedPrecondition ``other_epoch`` when the registry is of another one: call `sync`.
        """
        request = convert.message_of(
            replicas_pb2.HeartbeatRequest,
            replica_id=replica_id,
            model=model,
            fingerprint=fingerprint,
            lease_seconds=lease_s,
            epoch=epoch,
        )
        request.MergeFrom(convert.report_to_proto(report))
        return self._transport.call_again(self._replicas.Heartbeat, request, convert.lease_from_proto)
