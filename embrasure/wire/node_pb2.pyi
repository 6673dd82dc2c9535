from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FromGateway(_message.Message):
    __slots__ = ("offer", "data", "end", "ping", "confirm")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_FIELD_NUMBER: _ClassVar[int]
    offer: Offer
    data: Data
    end: End
    ping: Ping
    confirm: Confirm
    def __init__(self, offer: _Optional[_Union[Offer, _Mapping]] = ..., data: _Optional[_Union[Data, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., confirm: _Optional[_Union[Confirm, _Mapping]] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("order", "ahead")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    order: bytes
    ahead: _containers.RepeatedCompositeFieldContainer[Ahead]
    def __init__(self, order: _Optional[bytes] = ..., ahead: _Optional[_Iterable[_Union[Ahead, _Mapping]]] = ...) -> None: ...

class Ahead(_message.Message):
    __slots__ = ("path", "body", "absent")
    PATH_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    path: str
    body: bytes
    absent: bool
    def __init__(self, path: _Optional[str] = ..., body: _Optional[bytes] = ..., absent: bool = ...) -> None: ...

class Confirm(_message.Message):
    __slots__ = ("order",)
    ORDER_FIELD_NUMBER: _ClassVar[int]
    order: bytes
    def __init__(self, order: _Optional[bytes] = ...) -> None: ...

class Data(_message.Message):
    __slots__ = ("want", "offset", "body")
    WANT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    want: int
    offset: int
    body: bytes
    def __init__(self, want: _Optional[int] = ..., offset: _Optional[int] = ..., body: _Optional[bytes] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("want", "status", "length")
    WANT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    want: int
    status: str
    length: int
    def __init__(self, want: _Optional[int] = ..., status: _Optional[str] = ..., length: _Optional[int] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FromNode(_message.Message):
    __slots__ = ("want", "receipt", "progress", "refusal", "ping", "awaits")
    WANT_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    AWAITS_FIELD_NUMBER: _ClassVar[int]
    want: Want
    receipt: Receipt
    progress: Progress
    refusal: Refusal
    ping: Ping
    awaits: Awaits
    def __init__(self, want: _Optional[_Union[Want, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., awaits: _Optional[_Union[Awaits, _Mapping]] = ...) -> None: ...

class Awaits(_message.Message):
    __slots__ = ("app", "tx")
    APP_FIELD_NUMBER: _ClassVar[int]
    TX_FIELD_NUMBER: _ClassVar[int]
    app: str
    tx: str
    def __init__(self, app: _Optional[str] = ..., tx: _Optional[str] = ...) -> None: ...

class Want(_message.Message):
    __slots__ = ("id", "path", "offset", "limit")
    ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    id: int
    path: str
    offset: int
    limit: int
    def __init__(self, id: _Optional[int] = ..., path: _Optional[str] = ..., offset: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("signed", "body")
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    signed: bytes
    body: bytes
    def __init__(self, signed: _Optional[bytes] = ..., body: _Optional[bytes] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("state", "done", "total")
    STATE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    state: str
    done: int
    total: int
    def __init__(self, state: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("kind", "reason", "floor")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    kind: str
    reason: str
    floor: int
    def __init__(self, kind: _Optional[str] = ..., reason: _Optional[str] = ..., floor: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("approval", "only_awaited")
    APPROVAL_FIELD_NUMBER: _ClassVar[int]
    ONLY_AWAITED_FIELD_NUMBER: _ClassVar[int]
    approval: str
    only_awaited: bool
    def __init__(self, approval: _Optional[str] = ..., only_awaited: bool = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("node", "epoch", "serial", "oseq", "rseq", "apps", "version", "tls", "timestamp", "snapshot", "awaited", "approval")
    NODE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    OSEQ_FIELD_NUMBER: _ClassVar[int]
    RSEQ_FIELD_NUMBER: _ClassVar[int]
    APPS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    AWAITED_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_FIELD_NUMBER: _ClassVar[int]
    node: str
    epoch: int
    serial: str
    oseq: int
    rseq: int
    apps: _containers.RepeatedCompositeFieldContainer[AppStatus]
    version: str
    tls: str
    timestamp: bytes
    snapshot: bytes
    awaited: Awaited
    approval: bytes
    def __init__(self, node: _Optional[str] = ..., epoch: _Optional[int] = ..., serial: _Optional[str] = ..., oseq: _Optional[int] = ..., rseq: _Optional[int] = ..., apps: _Optional[_Iterable[_Union[AppStatus, _Mapping]]] = ..., version: _Optional[str] = ..., tls: _Optional[str] = ..., timestamp: _Optional[bytes] = ..., snapshot: _Optional[bytes] = ..., awaited: _Optional[_Union[Awaited, _Mapping]] = ..., approval: _Optional[bytes] = ...) -> None: ...

class Awaited(_message.Message):
    __slots__ = ("app", "plan", "tx", "nonce")
    APP_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    TX_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    app: str
    plan: str
    tx: str
    nonce: str
    def __init__(self, app: _Optional[str] = ..., plan: _Optional[str] = ..., tx: _Optional[str] = ..., nonce: _Optional[str] = ...) -> None: ...

class AppStatus(_message.Message):
    __slots__ = ("app", "state", "seq", "gseq", "manifest", "detail")
    APP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    GSEQ_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    app: str
    state: str
    seq: int
    gseq: int
    manifest: str
    detail: str
    def __init__(self, app: _Optional[str] = ..., state: _Optional[str] = ..., seq: _Optional[int] = ..., gseq: _Optional[int] = ..., manifest: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...
