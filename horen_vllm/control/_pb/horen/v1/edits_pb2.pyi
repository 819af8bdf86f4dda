import datetime

from horen_vllm.control._pb.buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EditSpec(_message.Message):
    __slots__ = ("prompt", "target", "subject", "aliases", "paraphrases", "must_not_fire")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    PARAPHRASES_FIELD_NUMBER: _ClassVar[int]
    MUST_NOT_FIRE_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    target: str
    subject: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    paraphrases: _containers.RepeatedScalarFieldContainer[str]
    must_not_fire: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, prompt: _Optional[str] = ..., target: _Optional[str] = ..., subject: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., paraphrases: _Optional[_Iterable[str]] = ..., must_not_fire: _Optional[_Iterable[str]] = ...) -> None: ...

class Edit(_message.Message):
    __slots__ = ("name", "edit_id", "sequence", "spec", "state", "reason_code", "reason", "same_as", "alias_of", "supersedes", "overlaps", "published_revision", "active", "create_time", "update_time", "publish_time", "replicas_serving", "replicas_total", "expire_time", "retire_time", "etag", "attempts")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Edit.State]
        COMMITTED: _ClassVar[Edit.State]
        TRAINING: _ClassVar[Edit.State]
        TRAINED: _ClassVar[Edit.State]
        PUBLISHED: _ClassVar[Edit.State]
        SERVING: _ClassVar[Edit.State]
        FAILED: _ClassVar[Edit.State]
        INACTIVE: _ClassVar[Edit.State]
    STATE_UNSPECIFIED: Edit.State
    COMMITTED: Edit.State
    TRAINING: Edit.State
    TRAINED: Edit.State
    PUBLISHED: Edit.State
    SERVING: Edit.State
    FAILED: Edit.State
    INACTIVE: Edit.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    EDIT_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SAME_AS_FIELD_NUMBER: _ClassVar[int]
    ALIAS_OF_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDES_FIELD_NUMBER: _ClassVar[int]
    OVERLAPS_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_REVISION_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_TIME_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_SERVING_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    RETIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    edit_id: str
    sequence: int
    spec: EditSpec
    state: Edit.State
    reason_code: str
    reason: str
    same_as: str
    alias_of: str
    supersedes: _containers.RepeatedScalarFieldContainer[str]
    overlaps: _containers.RepeatedScalarFieldContainer[str]
    published_revision: int
    active: bool
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    publish_time: _timestamp_pb2.Timestamp
    replicas_serving: int
    replicas_total: int
    expire_time: _timestamp_pb2.Timestamp
    retire_time: _timestamp_pb2.Timestamp
    etag: str
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    def __init__(self, name: _Optional[str] = ..., edit_id: _Optional[str] = ..., sequence: _Optional[int] = ..., spec: _Optional[_Union[EditSpec, _Mapping]] = ..., state: _Optional[_Union[Edit.State, str]] = ..., reason_code: _Optional[str] = ..., reason: _Optional[str] = ..., same_as: _Optional[str] = ..., alias_of: _Optional[str] = ..., supersedes: _Optional[_Iterable[str]] = ..., overlaps: _Optional[_Iterable[str]] = ..., published_revision: _Optional[int] = ..., active: _Optional[bool] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., publish_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., replicas_serving: _Optional[int] = ..., replicas_total: _Optional[int] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., retire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("number", "worker", "start_time", "end_time", "outcome")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    number: int
    worker: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    outcome: str
    def __init__(self, number: _Optional[int] = ..., worker: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., outcome: _Optional[str] = ...) -> None: ...

class SubmitEditRequest(_message.Message):
    __slots__ = ("parent", "spec", "request_id", "validate_only", "ttl")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    parent: str
    spec: EditSpec
    request_id: str
    validate_only: bool
    ttl: _duration_pb2.Duration
    def __init__(self, parent: _Optional[str] = ..., spec: _Optional[_Union[EditSpec, _Mapping]] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SubmitEditsRequest(_message.Message):
    __slots__ = ("edit",)
    EDIT_FIELD_NUMBER: _ClassVar[int]
    edit: SubmitEditRequest
    def __init__(self, edit: _Optional[_Union[SubmitEditRequest, _Mapping]] = ...) -> None: ...

class SubmitEditsResponse(_message.Message):
    __slots__ = ("index", "edit", "refusal")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    EDIT_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    index: int
    edit: Edit
    refusal: Refusal
    def __init__(self, index: _Optional[int] = ..., edit: _Optional[_Union[Edit, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "message", "status")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    status: int
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., status: _Optional[int] = ...) -> None: ...

class PreviewEditRequest(_message.Message):
    __slots__ = ("parent", "spec")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    parent: str
    spec: EditSpec
    def __init__(self, parent: _Optional[str] = ..., spec: _Optional[_Union[EditSpec, _Mapping]] = ...) -> None: ...

class PreviewEditResponse(_message.Message):
    __slots__ = ("verdict", "revision", "related", "collisions", "refusal")
    class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERDICT_UNSPECIFIED: _ClassVar[PreviewEditResponse.Verdict]
        NEW: _ClassVar[PreviewEditResponse.Verdict]
        SAME: _ClassVar[PreviewEditResponse.Verdict]
        ALIAS: _ClassVar[PreviewEditResponse.Verdict]
        SUPERSEDES: _ClassVar[PreviewEditResponse.Verdict]
        REFUSED: _ClassVar[PreviewEditResponse.Verdict]
    VERDICT_UNSPECIFIED: PreviewEditResponse.Verdict
    NEW: PreviewEditResponse.Verdict
    SAME: PreviewEditResponse.Verdict
    ALIAS: PreviewEditResponse.Verdict
    SUPERSEDES: PreviewEditResponse.Verdict
    REFUSED: PreviewEditResponse.Verdict
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    RELATED_FIELD_NUMBER: _ClassVar[int]
    COLLISIONS_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    verdict: PreviewEditResponse.Verdict
    revision: int
    related: _containers.RepeatedScalarFieldContainer[str]
    collisions: _containers.RepeatedCompositeFieldContainer[Collision]
    refusal: Refusal
    def __init__(self, verdict: _Optional[_Union[PreviewEditResponse.Verdict, str]] = ..., revision: _Optional[int] = ..., related: _Optional[_Iterable[str]] = ..., collisions: _Optional[_Iterable[_Union[Collision, _Mapping]]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class Collision(_message.Message):
    __slots__ = ("edit_id", "text", "score", "threshold", "prompt", "target")
    EDIT_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    edit_id: str
    text: str
    score: float
    threshold: float
    prompt: str
    target: str
    def __init__(self, edit_id: _Optional[str] = ..., text: _Optional[str] = ..., score: _Optional[float] = ..., threshold: _Optional[float] = ..., prompt: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class RetireEditRequest(_message.Message):
    __slots__ = ("name", "request_id", "validate_only", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    validate_only: bool
    etag: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ..., etag: _Optional[str] = ...) -> None: ...

class GetEditRequest(_message.Message):
    __slots__ = ("name", "read_mask")
    NAME_FIELD_NUMBER: _ClassVar[int]
    READ_MASK_FIELD_NUMBER: _ClassVar[int]
    name: str
    read_mask: _field_mask_pb2.FieldMask
    def __init__(self, name: _Optional[str] = ..., read_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class ListEditsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "read_mask", "states")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    READ_MASK_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    read_mask: _field_mask_pb2.FieldMask
    states: _containers.RepeatedScalarFieldContainer[Edit.State]
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., read_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., states: _Optional[_Iterable[_Union[Edit.State, str]]] = ...) -> None: ...

class ListEditsResponse(_message.Message):
    __slots__ = ("edits", "next_page_token")
    EDITS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    edits: _containers.RepeatedCompositeFieldContainer[Edit]
    next_page_token: str
    def __init__(self, edits: _Optional[_Iterable[_Union[Edit, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchEditRequest(_message.Message):
    __slots__ = ("name", "until", "after_etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    AFTER_ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    until: Edit.State
    after_etag: str
    def __init__(self, name: _Optional[str] = ..., until: _Optional[_Union[Edit.State, str]] = ..., after_etag: _Optional[str] = ...) -> None: ...
