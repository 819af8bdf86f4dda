import datetime

from horen_vllm.control._pb.buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from horen_vllm.control._pb.horen.v1 import admin_pb2 as _admin_pb2
from horen_vllm.control._pb.horen.v1 import codebooks_pb2 as _codebooks_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SyncRequest(_message.Message):
    __slots__ = ("replica_id", "model", "fingerprint", "known", "wait_seconds", "epoch")
    class KnownEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    model: str
    fingerprint: str
    known: _containers.ScalarMap[str, int]
    wait_seconds: float
    epoch: str
    def __init__(self, replica_id: _Optional[str] = ..., model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., known: _Optional[_Mapping[str, int]] = ..., wait_seconds: _Optional[float] = ..., epoch: _Optional[str] = ...) -> None: ...

class SyncResponse(_message.Message):
    __slots__ = ("deltas", "removed_codebooks", "epoch", "more")
    DELTAS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_CODEBOOKS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    deltas: _containers.RepeatedCompositeFieldContainer[CodebookDelta]
    removed_codebooks: _containers.RepeatedScalarFieldContainer[str]
    epoch: str
    more: bool
    def __init__(self, deltas: _Optional[_Iterable[_Union[CodebookDelta, _Mapping]]] = ..., removed_codebooks: _Optional[_Iterable[str]] = ..., epoch: _Optional[str] = ..., more: _Optional[bool] = ...) -> None: ...

class CodebookDelta(_message.Message):
    __slots__ = ("codebook", "base_revision", "revision", "added", "removed")
    CODEBOOK_FIELD_NUMBER: _ClassVar[int]
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    codebook: _codebooks_pb2.Codebook
    base_revision: int
    revision: int
    added: _containers.RepeatedCompositeFieldContainer[EntryRef]
    removed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, codebook: _Optional[_Union[_codebooks_pb2.Codebook, _Mapping]] = ..., base_revision: _Optional[int] = ..., revision: _Optional[int] = ..., added: _Optional[_Iterable[_Union[EntryRef, _Mapping]]] = ..., removed: _Optional[_Iterable[str]] = ...) -> None: ...

class EntryRef(_message.Message):
    __slots__ = ("edit_id", "sequence", "artifact")
    EDIT_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    edit_id: str
    sequence: int
    artifact: str
    def __init__(self, edit_id: _Optional[str] = ..., sequence: _Optional[int] = ..., artifact: _Optional[str] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("replica_id", "model", "fingerprint", "applied", "lease_seconds", "probed", "failed_probes", "refused", "epoch")
    class AppliedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class ProbedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROBED_FIELD_NUMBER: _ClassVar[int]
    FAILED_PROBES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    model: str
    fingerprint: str
    applied: _containers.ScalarMap[str, int]
    lease_seconds: float
    probed: _containers.ScalarMap[str, int]
    failed_probes: _containers.RepeatedCompositeFieldContainer[FailedProbe]
    refused: _containers.RepeatedCompositeFieldContainer[RefusedRevision]
    epoch: str
    def __init__(self, replica_id: _Optional[str] = ..., model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., applied: _Optional[_Mapping[str, int]] = ..., lease_seconds: _Optional[float] = ..., probed: _Optional[_Mapping[str, int]] = ..., failed_probes: _Optional[_Iterable[_Union[FailedProbe, _Mapping]]] = ..., refused: _Optional[_Iterable[_Union[RefusedRevision, _Mapping]]] = ..., epoch: _Optional[str] = ...) -> None: ...

class FailedProbe(_message.Message):
    __slots__ = ("codebook", "edit_id", "base_revision", "revision", "reason")
    CODEBOOK_FIELD_NUMBER: _ClassVar[int]
    EDIT_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    codebook: str
    edit_id: str
    base_revision: int
    revision: int
    reason: str
    def __init__(self, codebook: _Optional[str] = ..., edit_id: _Optional[str] = ..., base_revision: _Optional[int] = ..., revision: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class RefusedRevision(_message.Message):
    __slots__ = ("codebook", "revision", "code", "message")
    CODEBOOK_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    codebook: str
    revision: int
    code: str
    message: str
    def __init__(self, codebook: _Optional[str] = ..., revision: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("lease_expire_time",)
    LEASE_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    lease_expire_time: _timestamp_pb2.Timestamp
    def __init__(self, lease_expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ResolveKeyRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...
