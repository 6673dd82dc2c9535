"""Read and write signed documents: exact fields, one digest each; outside bytes enter here only."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, inspect

from embrasure import limits
from embrasure.clock import read_time
from embrasure.errors import NotSupported, Refused
from embrasure.shapes import prepare
from embrasure.trust import canonical as form
from embrasure.trust.plain import read_plain

# `$` also matches before a final newline; `canonical.check_text` has refused control characters.
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
KeyId = Digest
PublicKey = Digest  # 32 raw bytes of an Ed25519 or X25519 key, in the same 64 hex digits
NodeId = Annotated[str, Meta(pattern=r"^n-[a-z2-7]{26}$")]
EnvName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9]{0,15}$")]
AppName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,47}$")]
PersonId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Time = Annotated[
    str, Meta(pattern=r"^2[01][0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")
]
Count = Annotated[int, Meta(ge=0, le=limits.MAX_INTEGER)]
Positive = Annotated[int, Meta(ge=1, le=limits.MAX_INTEGER)]
Percent = Annotated[int, Meta(ge=0, le=100)]
Base64 = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=65536)]
LabelKey = Annotated[str, Meta(pattern=r"^[a-z0-9._-]{1,63}$")]
LabelText = Annotated[str, Meta(pattern=r"^[a-z0-9._-]{1,63}$")]
Labels = Annotated[dict[LabelKey, LabelText], Meta(max_length=limits.LABELS)]


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signed document or a part of one: every field is there, and no other."""


class Content(Document, frozen=True, kw_only=True):
    """A named content: digest and length in bytes."""

    sha256: Digest
    length: Count


T = TypeVar("T", bound=Document)


def convert(value: object, shape: type[T], document: str) -> T:
    """Return `value` as `shape`; raises Refused `bad-schema`, NotSupported."""
    prepare(shape)
    try:
        found = msgspec.convert(value, shape, strict=True)
    except msgspec.ValidationError as problem:
        raise Refused(
            document, expected="its exact fields", got=str(problem), reason="bad-schema"
        ) from None
    if may_hold_times(shape):
        check_times(value, document)
    return found


def read(raw: bytes, shape: type[T], *, limit: int, document: str) -> T:
    """Return the document that `raw` is the one byte string of.

    limit: bytes. Raises Refused and NotSupported only.
    """
    if len(raw) <= limit and (found := read_plain(raw, shape, apart=DATED)) is not None:
        return found
    return convert(form.parse(raw, limit=limit, document=document), shape, document)


def write(document: Document) -> bytes:
    """Return the one byte string of `document`."""
    return form.written(document)


def digest(document: Document) -> str:
    """Return the SHA-256 of `document`'s one byte string, 64 hex digits."""
    return form.sha256_hex(write(document))


_TIMES = frozenset(
    {
        "created",
        "approve_by",
        "not_after",
        "issued",
        "expires",
        "at",
        "valid_until",
        "from",
        "to",
        "until",
    }
)
DATED = frozenset(name.encode() for name in _TIMES)


def check_times(value: object, document: str) -> None:
    """Return only when each member that is a time is a real moment (no 30 February)."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name in _TIMES and isinstance(item, str) and item:
                try:
                    read_time(item)
                except ValueError:
                    raise Refused(
                        document, expected=f"a time in `{name}`", got=item, reason="bad-schema"
                    ) from None
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict | list):
                check_times(item, document)


@lru_cache(maxsize=limits.SHAPES_KEPT)
def may_hold_times(shape: object) -> bool:
    """Return whether a document of this shape may have a member that is a time, at any depth.

    A message between two processes or a record has none, and there are many of them.
    """
    seen: list[object] = []

    def is_text(kind: inspect.Type) -> bool:
        if isinstance(kind, inspect.UnionType):
            return any(map(is_text, kind.types))
        return isinstance(kind, inspect.StrType | inspect.LiteralType | inspect.EnumType)

    def may(kind: inspect.Type | inspect.Field) -> bool:
        if isinstance(kind, inspect.StructType):
            if kind.cls in seen:
                return False
            seen.append(kind.cls)
            return any(
                (f.encode_name in _TIMES and is_text(f.type)) or may(f.type) for f in kind.fields
            )
        if isinstance(kind, inspect.UnionType):
            return any(map(may, kind.types))
        if isinstance(kind, inspect.DictType):  # its members may have any name
            return is_text(kind.value_type) or may(kind.value_type)
        if isinstance(kind, inspect.TupleType):
            return any(map(may, kind.item_types))
        if isinstance(kind, inspect.CollectionType):
            return may(kind.item_type)
        return not isinstance(kind, _TIMELESS)

    return may(inspect.type_info(shape))


_TIMELESS = (
    inspect.StrType, inspect.IntType, inspect.BoolType, inspect.NoneType, inspect.LiteralType,
    inspect.EnumType,
)  # fmt: skip


def check_unused(document: str, **fields: object) -> None:
    """Return only when every field is empty: their rules are not built yet."""
    for name, value in fields.items():
        if value:
            raise NotSupported(
                document,
                expected=f"`{name}` to be empty",
                got="a value",
                hint=f"this version of embrasure has no rule for `{name}` and never ignores one",
            )
