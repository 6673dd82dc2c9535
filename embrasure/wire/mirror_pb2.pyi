from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MissingRequest(_message.Message):
    __slots__ = ("paths",)
    PATHS_FIELD_NUMBER: _ClassVar[int]
    paths: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, paths: _Optional[_Iterable[str]] = ...) -> None: ...

class Lacking(_message.Message):
    __slots__ = ("path", "held")
    PATH_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    path: str
    held: int
    def __init__(self, path: _Optional[str] = ..., held: _Optional[int] = ...) -> None: ...

class MissingReply(_message.Message):
    __slots__ = ("lacking",)
    LACKING_FIELD_NUMBER: _ClassVar[int]
    lacking: _containers.RepeatedCompositeFieldContainer[Lacking]
    def __init__(self, lacking: _Optional[_Iterable[_Union[Lacking, _Mapping]]] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("path", "offset", "body", "last")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    path: str
    offset: int
    body: bytes
    last: bool
    def __init__(self, path: _Optional[str] = ..., offset: _Optional[int] = ..., body: _Optional[bytes] = ..., last: bool = ...) -> None: ...

class PutReply(_message.Message):
    __slots__ = ("held",)
    HELD_FIELD_NUMBER: _ClassVar[int]
    held: int
    def __init__(self, held: _Optional[int] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("timestamp",)
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    timestamp: bytes
    def __init__(self, timestamp: _Optional[bytes] = ...) -> None: ...

class PublishReply(_message.Message):
    __slots__ = ("timestamp_version",)
    TIMESTAMP_VERSION_FIELD_NUMBER: _ClassVar[int]
    timestamp_version: int
    def __init__(self, timestamp_version: _Optional[int] = ...) -> None: ...

class ShownRequest(_message.Message):
    __slots__ = ("approval",)
    APPROVAL_FIELD_NUMBER: _ClassVar[int]
    approval: str
    def __init__(self, approval: _Optional[str] = ...) -> None: ...

class ShownReply(_message.Message):
    __slots__ = ("timestamp", "snapshot", "approval")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_FIELD_NUMBER: _ClassVar[int]
    timestamp: bytes
    snapshot: bytes
    approval: bytes
    def __init__(self, timestamp: _Optional[bytes] = ..., snapshot: _Optional[bytes] = ..., approval: _Optional[bytes] = ...) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class Post(_message.Message):
    __slots__ = ("key", "rseq", "header", "body")
    KEY_FIELD_NUMBER: _ClassVar[int]
    RSEQ_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    key: str
    rseq: int
    header: bytes
    body: bytes
    def __init__(self, key: _Optional[str] = ..., rseq: _Optional[int] = ..., header: _Optional[bytes] = ..., body: _Optional[bytes] = ...) -> None: ...

class Slot(_message.Message):
    __slots__ = ("key", "rseq")
    KEY_FIELD_NUMBER: _ClassVar[int]
    RSEQ_FIELD_NUMBER: _ClassVar[int]
    key: str
    rseq: int
    def __init__(self, key: _Optional[str] = ..., rseq: _Optional[int] = ...) -> None: ...

class AcknowledgeRequest(_message.Message):
    __slots__ = ("slots",)
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    slots: _containers.RepeatedCompositeFieldContainer[Slot]
    def __init__(self, slots: _Optional[_Iterable[_Union[Slot, _Mapping]]] = ...) -> None: ...

class AcknowledgeReply(_message.Message):
    __slots__ = ("freed",)
    FREED_FIELD_NUMBER: _ClassVar[int]
    freed: int
    def __init__(self, freed: _Optional[int] = ...) -> None: ...
