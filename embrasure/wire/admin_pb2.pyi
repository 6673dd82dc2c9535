from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Json(_message.Message):
    __slots__ = ("body",)
    BODY_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    def __init__(self, body: _Optional[bytes] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("env", "app", "limit", "cursor")
    ENV_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    env: str
    app: str
    limit: int
    cursor: str
    def __init__(self, env: _Optional[str] = ..., app: _Optional[str] = ..., limit: _Optional[int] = ..., cursor: _Optional[str] = ...) -> None: ...

class RolloutQuery(_message.Message):
    __slots__ = ("id", "after_event")
    ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_EVENT_FIELD_NUMBER: _ClassVar[int]
    id: str
    after_event: int
    def __init__(self, id: _Optional[str] = ..., after_event: _Optional[int] = ...) -> None: ...

class AuditQuery(_message.Message):
    __slots__ = ("since", "follow")
    SINCE_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    since: int
    follow: bool
    def __init__(self, since: _Optional[int] = ..., follow: bool = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("path", "offset", "limit")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    path: str
    offset: int
    limit: int
    def __init__(self, path: _Optional[str] = ..., offset: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
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

class ProposalQuery(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ProposalReply(_message.Message):
    __slots__ = ("id", "env", "app", "role", "plan", "statements", "info")
    ID_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    STATEMENTS_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    id: str
    env: str
    app: str
    role: bytes
    plan: bytes
    statements: _containers.RepeatedScalarFieldContainer[bytes]
    info: bytes
    def __init__(self, id: _Optional[str] = ..., env: _Optional[str] = ..., app: _Optional[str] = ..., role: _Optional[bytes] = ..., plan: _Optional[bytes] = ..., statements: _Optional[_Iterable[bytes]] = ..., info: _Optional[bytes] = ...) -> None: ...

class ReserveRequest(_message.Message):
    __slots__ = ("env", "app")
    ENV_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    env: str
    app: str
    def __init__(self, env: _Optional[str] = ..., app: _Optional[str] = ...) -> None: ...

class Blob(_message.Message):
    __slots__ = ("sha256", "length", "held")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    length: int
    held: int
    def __init__(self, sha256: _Optional[str] = ..., length: _Optional[int] = ..., held: _Optional[int] = ...) -> None: ...

class BlobList(_message.Message):
    __slots__ = ("blobs",)
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    blobs: _containers.RepeatedCompositeFieldContainer[Blob]
    def __init__(self, blobs: _Optional[_Iterable[_Union[Blob, _Mapping]]] = ...) -> None: ...

class Upload(_message.Message):
    __slots__ = ("sha256", "length", "offset", "body")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    length: int
    offset: int
    body: bytes
    def __init__(self, sha256: _Optional[str] = ..., length: _Optional[int] = ..., offset: _Optional[int] = ..., body: _Optional[bytes] = ...) -> None: ...

class TrustFile(_message.Message):
    __slots__ = ("path", "body", "force")
    PATH_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    path: str
    body: bytes
    force: bool
    def __init__(self, path: _Optional[str] = ..., body: _Optional[bytes] = ..., force: bool = ...) -> None: ...

class ProposeRequest(_message.Message):
    __slots__ = ("env", "app", "role", "plan", "statement", "supersede")
    ENV_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDE_FIELD_NUMBER: _ClassVar[int]
    env: str
    app: str
    role: bytes
    plan: bytes
    statement: bytes
    supersede: bool
    def __init__(self, env: _Optional[str] = ..., app: _Optional[str] = ..., role: _Optional[bytes] = ..., plan: _Optional[bytes] = ..., statement: _Optional[bytes] = ..., supersede: bool = ...) -> None: ...

class ApproveRequest(_message.Message):
    __slots__ = ("id", "signature", "statement")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    id: str
    signature: bytes
    statement: bytes
    def __init__(self, id: _Optional[str] = ..., signature: _Optional[bytes] = ..., statement: _Optional[bytes] = ...) -> None: ...

class StatementRequest(_message.Message):
    __slots__ = ("id", "statement")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    id: str
    statement: bytes
    def __init__(self, id: _Optional[str] = ..., statement: _Optional[bytes] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("env", "app", "plan")
    ENV_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    env: str
    app: str
    plan: str
    def __init__(self, env: _Optional[str] = ..., app: _Optional[str] = ..., plan: _Optional[str] = ...) -> None: ...

class ActRequest(_message.Message):
    __slots__ = ("id", "reason", "nodes", "failed", "unreachable")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    id: str
    reason: str
    nodes: _containers.RepeatedScalarFieldContainer[str]
    failed: bool
    unreachable: bool
    def __init__(self, id: _Optional[str] = ..., reason: _Optional[str] = ..., nodes: _Optional[_Iterable[str]] = ..., failed: bool = ..., unreachable: bool = ...) -> None: ...

class AddressRequest(_message.Message):
    __slots__ = ("kind", "env", "name", "address", "post_address")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    POST_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    env: str
    name: str
    address: str
    post_address: str
    def __init__(self, kind: _Optional[str] = ..., env: _Optional[str] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., post_address: _Optional[str] = ...) -> None: ...

class NodeRequest(_message.Message):
    __slots__ = ("env", "node")
    ENV_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    env: str
    node: str
    def __init__(self, env: _Optional[str] = ..., node: _Optional[str] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("env", "node", "leaf", "body")
    ENV_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LEAF_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    env: str
    node: str
    leaf: bytes
    body: bytes
    def __init__(self, env: _Optional[str] = ..., node: _Optional[str] = ..., leaf: _Optional[bytes] = ..., body: _Optional[bytes] = ...) -> None: ...

class JoinPart(_message.Message):
    __slots__ = ("env", "node", "leaf", "path", "body")
    ENV_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LEAF_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    env: str
    node: str
    leaf: bytes
    path: str
    body: bytes
    def __init__(self, env: _Optional[str] = ..., node: _Optional[str] = ..., leaf: _Optional[bytes] = ..., path: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("body", "mac", "leaf", "gateway")
    BODY_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    LEAF_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    mac: str
    leaf: bytes
    gateway: bytes
    def __init__(self, body: _Optional[bytes] = ..., mac: _Optional[str] = ..., leaf: _Optional[bytes] = ..., gateway: _Optional[bytes] = ...) -> None: ...
