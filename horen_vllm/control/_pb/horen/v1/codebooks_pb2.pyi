import datetime

from horen_vllm.control._pb.buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Codebook(_message.Message):
    __slots__ = ("name", "model", "fingerprint", "site", "preset", "threshold", "value_mode", "window_ratio", "beta", "gamma", "steps", "revision", "entry_count", "create_time", "parameters_json", "replicas_total", "replicas_serving", "problems", "false_fire_rate", "anchors", "anchored_threshold", "mask_subject", "space", "delete_time", "etag", "oldest_revision")
    class ValueMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VALUE_MODE_UNSPECIFIED: _ClassVar[Codebook.ValueMode]
        SEQUENCE: _ClassVar[Codebook.ValueMode]
        ANSWER: _ClassVar[Codebook.ValueMode]
        LAST: _ClassVar[Codebook.ValueMode]
        REPLACE: _ClassVar[Codebook.ValueMode]
    VALUE_MODE_UNSPECIFIED: Codebook.ValueMode
    SEQUENCE: Codebook.ValueMode
    ANSWER: Codebook.ValueMode
    LAST: Codebook.ValueMode
    REPLACE: Codebook.ValueMode
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    VALUE_MODE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_RATIO_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_JSON_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_SERVING_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    FALSE_FIRE_RATE_FIELD_NUMBER: _ClassVar[int]
    ANCHORS_FIELD_NUMBER: _ClassVar[int]
    ANCHORED_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MASK_SUBJECT_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    DELETE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    OLDEST_REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    fingerprint: str
    site: str
    preset: str
    threshold: float
    value_mode: Codebook.ValueMode
    window_ratio: float
    beta: float
    gamma: float
    steps: int
    revision: int
    entry_count: int
    create_time: _timestamp_pb2.Timestamp
    parameters_json: str
    replicas_total: int
    replicas_serving: int
    problems: _containers.RepeatedCompositeFieldContainer[ReplicaProblem]
    false_fire_rate: float
    anchors: bool
    anchored_threshold: float
    mask_subject: bool
    space: str
    delete_time: _timestamp_pb2.Timestamp
    etag: str
    oldest_revision: int
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., site: _Optional[str] = ..., preset: _Optional[str] = ..., threshold: _Optional[float] = ..., value_mode: _Optional[_Union[Codebook.ValueMode, str]] = ..., window_ratio: _Optional[float] = ..., beta: _Optional[float] = ..., gamma: _Optional[float] = ..., steps: _Optional[int] = ..., revision: _Optional[int] = ..., entry_count: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., parameters_json: _Optional[str] = ..., replicas_total: _Optional[int] = ..., replicas_serving: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[ReplicaProblem, _Mapping]]] = ..., false_fire_rate: _Optional[float] = ..., anchors: _Optional[bool] = ..., anchored_threshold: _Optional[float] = ..., mask_subject: _Optional[bool] = ..., space: _Optional[str] = ..., delete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., oldest_revision: _Optional[int] = ...) -> None: ...

class ReplicaProblem(_message.Message):
    __slots__ = ("replica_id", "revision", "code", "message", "edit_id")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EDIT_ID_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    revision: int
    code: str
    message: str
    edit_id: str
    def __init__(self, replica_id: _Optional[str] = ..., revision: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., edit_id: _Optional[str] = ...) -> None: ...

class Revision(_message.Message):
    __slots__ = ("name", "number", "kind", "edit_id", "restored_revision", "entry_count", "create_time", "serving", "replicas_total", "replicas_serving", "threshold")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Revision.Kind]
        CREATE: _ClassVar[Revision.Kind]
        PUBLISH: _ClassVar[Revision.Kind]
        RETIRE: _ClassVar[Revision.Kind]
        ROLLBACK: _ClassVar[Revision.Kind]
        IMPORT: _ClassVar[Revision.Kind]
        THRESHOLD: _ClassVar[Revision.Kind]
    KIND_UNSPECIFIED: Revision.Kind
    CREATE: Revision.Kind
    PUBLISH: Revision.Kind
    RETIRE: Revision.Kind
    ROLLBACK: Revision.Kind
    IMPORT: Revision.Kind
    THRESHOLD: Revision.Kind
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EDIT_ID_FIELD_NUMBER: _ClassVar[int]
    RESTORED_REVISION_FIELD_NUMBER: _ClassVar[int]
    ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_SERVING_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    name: str
    number: int
    kind: Revision.Kind
    edit_id: str
    restored_revision: int
    entry_count: int
    create_time: _timestamp_pb2.Timestamp
    serving: bool
    replicas_total: int
    replicas_serving: int
    threshold: float
    def __init__(self, name: _Optional[str] = ..., number: _Optional[int] = ..., kind: _Optional[_Union[Revision.Kind, str]] = ..., edit_id: _Optional[str] = ..., restored_revision: _Optional[int] = ..., entry_count: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., serving: _Optional[bool] = ..., replicas_total: _Optional[int] = ..., replicas_serving: _Optional[int] = ..., threshold: _Optional[float] = ...) -> None: ...

class Calibration(_message.Message):
    __slots__ = ("name", "version", "fingerprint", "site", "presets", "recommended", "summary_json", "create_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    PRESETS_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDED_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_JSON_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    fingerprint: str
    site: str
    presets: _containers.RepeatedCompositeFieldContainer[CalibratedPreset]
    recommended: str
    summary_json: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., fingerprint: _Optional[str] = ..., site: _Optional[str] = ..., presets: _Optional[_Iterable[_Union[CalibratedPreset, _Mapping]]] = ..., recommended: _Optional[str] = ..., summary_json: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CalibratedPreset(_message.Message):
    __slots__ = ("preset", "parameters_json")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_JSON_FIELD_NUMBER: _ClassVar[int]
    preset: str
    parameters_json: str
    def __init__(self, preset: _Optional[str] = ..., parameters_json: _Optional[str] = ...) -> None: ...

class CreateCodebookRequest(_message.Message):
    __slots__ = ("parent", "codebook_id", "preset", "threshold", "value_mode", "window_ratio", "rank", "max_value_rows", "train_end", "chat", "prefixes", "false_fire_rate", "anchors", "anchored_threshold", "mask_subject", "request_id", "validate_only")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    CODEBOOK_ID_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    VALUE_MODE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_RATIO_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    MAX_VALUE_ROWS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_END_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    FALSE_FIRE_RATE_FIELD_NUMBER: _ClassVar[int]
    ANCHORS_FIELD_NUMBER: _ClassVar[int]
    ANCHORED_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MASK_SUBJECT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    parent: str
    codebook_id: str
    preset: str
    threshold: float
    value_mode: Codebook.ValueMode
    window_ratio: float
    rank: int
    max_value_rows: int
    train_end: bool
    chat: bool
    prefixes: int
    false_fire_rate: float
    anchors: bool
    anchored_threshold: float
    mask_subject: bool
    request_id: str
    validate_only: bool
    def __init__(self, parent: _Optional[str] = ..., codebook_id: _Optional[str] = ..., preset: _Optional[str] = ..., threshold: _Optional[float] = ..., value_mode: _Optional[_Union[Codebook.ValueMode, str]] = ..., window_ratio: _Optional[float] = ..., rank: _Optional[int] = ..., max_value_rows: _Optional[int] = ..., train_end: _Optional[bool] = ..., chat: _Optional[bool] = ..., prefixes: _Optional[int] = ..., false_fire_rate: _Optional[float] = ..., anchors: _Optional[bool] = ..., anchored_threshold: _Optional[float] = ..., mask_subject: _Optional[bool] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class GetCodebookRequest(_message.Message):
    __slots__ = ("name", "read_mask")
    NAME_FIELD_NUMBER: _ClassVar[int]
    READ_MASK_FIELD_NUMBER: _ClassVar[int]
    name: str
    read_mask: _field_mask_pb2.FieldMask
    def __init__(self, name: _Optional[str] = ..., read_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class ListCodebooksRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "show_deleted", "read_mask")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SHOW_DELETED_FIELD_NUMBER: _ClassVar[int]
    READ_MASK_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    show_deleted: bool
    read_mask: _field_mask_pb2.FieldMask
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., show_deleted: _Optional[bool] = ..., read_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class ListCodebooksResponse(_message.Message):
    __slots__ = ("codebooks", "next_page_token")
    CODEBOOKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    codebooks: _containers.RepeatedCompositeFieldContainer[Codebook]
    next_page_token: str
    def __init__(self, codebooks: _Optional[_Iterable[_Union[Codebook, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListRevisionsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRevisionsResponse(_message.Message):
    __slots__ = ("revisions", "next_page_token")
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    revisions: _containers.RepeatedCompositeFieldContainer[Revision]
    next_page_token: str
    def __init__(self, revisions: _Optional[_Iterable[_Union[Revision, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RollbackCodebookRequest(_message.Message):
    __slots__ = ("name", "to_revision", "request_id", "validate_only", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TO_REVISION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    to_revision: int
    request_id: str
    validate_only: bool
    etag: str
    def __init__(self, name: _Optional[str] = ..., to_revision: _Optional[int] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ..., etag: _Optional[str] = ...) -> None: ...

class DeleteCodebookRequest(_message.Message):
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

class UndeleteCodebookRequest(_message.Message):
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

class DiffRevisionsRequest(_message.Message):
    __slots__ = ("name", "from_revision", "to_revision", "page_size", "page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FROM_REVISION_FIELD_NUMBER: _ClassVar[int]
    TO_REVISION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    from_revision: int
    to_revision: int
    page_size: int
    page_token: str
    def __init__(self, name: _Optional[str] = ..., from_revision: _Optional[int] = ..., to_revision: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class DiffRevisionsResponse(_message.Message):
    __slots__ = ("changes", "next_page_token", "from_revision", "to_revision", "from_threshold", "to_threshold")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FROM_REVISION_FIELD_NUMBER: _ClassVar[int]
    TO_REVISION_FIELD_NUMBER: _ClassVar[int]
    FROM_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    TO_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    next_page_token: str
    from_revision: int
    to_revision: int
    from_threshold: float
    to_threshold: float
    def __init__(self, changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., from_revision: _Optional[int] = ..., to_revision: _Optional[int] = ..., from_threshold: _Optional[float] = ..., to_threshold: _Optional[float] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("kind", "edit_id", "sequence", "prompt", "target")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Change.Kind]
        ADDED: _ClassVar[Change.Kind]
        REMOVED: _ClassVar[Change.Kind]
    KIND_UNSPECIFIED: Change.Kind
    ADDED: Change.Kind
    REMOVED: Change.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    EDIT_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    kind: Change.Kind
    edit_id: str
    sequence: int
    prompt: str
    target: str
    def __init__(self, kind: _Optional[_Union[Change.Kind, str]] = ..., edit_id: _Optional[str] = ..., sequence: _Optional[int] = ..., prompt: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class ExportCodebookRequest(_message.Message):
    __slots__ = ("name", "revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: int
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class ExportCodebookResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class ImportCodebookRequest(_message.Message):
    __slots__ = ("name", "request_id", "validate_only", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    validate_only: bool
    data: bytes
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ..., data: _Optional[bytes] = ...) -> None: ...

class ImportCodebookResponse(_message.Message):
    __slots__ = ("codebook", "added", "already_there", "kept_retired", "retired")
    CODEBOOK_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    ALREADY_THERE_FIELD_NUMBER: _ClassVar[int]
    KEPT_RETIRED_FIELD_NUMBER: _ClassVar[int]
    RETIRED_FIELD_NUMBER: _ClassVar[int]
    codebook: Codebook
    added: int
    already_there: int
    kept_retired: int
    retired: int
    def __init__(self, codebook: _Optional[_Union[Codebook, _Mapping]] = ..., added: _Optional[int] = ..., already_there: _Optional[int] = ..., kept_retired: _Optional[int] = ..., retired: _Optional[int] = ...) -> None: ...

class WatchRevisionsRequest(_message.Message):
    __slots__ = ("parent", "after_revision")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    AFTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    parent: str
    after_revision: int
    def __init__(self, parent: _Optional[str] = ..., after_revision: _Optional[int] = ...) -> None: ...

class WatchCodebookRequest(_message.Message):
    __slots__ = ("name", "after_etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_etag: str
    def __init__(self, name: _Optional[str] = ..., after_etag: _Optional[str] = ...) -> None: ...

class GetCalibrationRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListCalibrationsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListCalibrationsResponse(_message.Message):
    __slots__ = ("calibrations", "next_page_token")
    CALIBRATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    calibrations: _containers.RepeatedCompositeFieldContainer[Calibration]
    next_page_token: str
    def __init__(self, calibrations: _Optional[_Iterable[_Union[Calibration, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
