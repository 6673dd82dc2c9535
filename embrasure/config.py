"""Read a TOML file into exactly its shape: an unknown key or a wrong type is told by its path."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import inspect

from embrasure import limits
from embrasure.errors import Denied, Misuse, NotFound, shown
from embrasure.fs import read_file
from embrasure.shapes import prepare

S = TypeVar("S", bound=msgspec.Struct)

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`(?: - at `(?P<path>[^`]*)`)?")
_AT = re.compile(r"(?P<what>.*) - at `(?P<path>[^`]*)`", re.DOTALL)
_MADE_BY = {
    kind: f"embrasure {kind} init makes such a folder"
    for kind in ("gateway", "mirror", "letterbox")
}
_STEP = re.compile(r"\.([^.\[]+)|\[(\.\.\.|[0-9]+)\]")


def read_toml(path: Path, shape: type[S], *, document: str, owned: bool = True) -> S:
    """Return the file at `path` as `shape`, whose defaults fill what it leaves out.

    shape: a Struct with `forbid_unknown_fields`, as deep as it goes
    owned: refuse a file that another user could have written; False for what is only described
    Raises Misuse (missing, no TOML, unknown key, wrong type), Denied (writable by others, a key).
    """
    try:
        raw = read_file(path, limit=limits.CONFIG_BYTES, unshared=owned)
    except NotFound:
        raise Misuse(
            f"{document} {path}", expected="a TOML file", got="nothing there", reason="config",
            hint=_MADE_BY.get(document, ""),
        ) from None  # fmt: skip
    return parse_toml(raw, shape, thing=f"{document} {path}")


def parse_toml(raw: bytes, shape: type[S], *, thing: str) -> S:
    """Return the TOML text `raw` as `shape`; raises Misuse, Denied."""
    if b"PRIVATE KEY-----" in raw:
        raise Denied(
            thing, expected="the name of a key, never a key", got="a private key", reason="secret"
        )
    try:
        found = tomllib.loads(raw.decode("utf-8"))
    except RecursionError:
        raise Misuse(thing, expected="TOML", got="deep nesting", reason="config") from None
    except ValueError as problem:  # also UnicodeDecodeError and numbers without end
        raise Misuse(thing, expected="TOML", got=problem, reason="config") from None
    try:
        prepare(shape)
        return msgspec.convert(found, shape, strict=True)
    except msgspec.ValidationError as problem:
        raise _explained(str(problem), shape, thing) from None


def _explained(text: str, shape: type[msgspec.Struct], thing: str) -> Misuse:
    """Return the error with the path of the key, and the nearest known key for an unknown one."""
    unknown = _UNKNOWN.fullmatch(text)
    if unknown is not None:
        place = unknown["path"] or "$"
        known = sorted(known_keys(shape, place))
        near = difflib.get_close_matches(unknown["key"], known, n=1, cutoff=0.5)
        return Misuse(
            f"{thing}: {_key_path(place, unknown['key'])}",
            expected=f"a known key ({shown(', '.join(known), 300)})",
            got="an unknown one",
            hint=f"did you mean `{near[0]}`?" if near else "",
            reason="config",
        )
    at = _AT.fullmatch(text)
    if at is None:
        return Misuse(thing, expected="its exact keys", got=text, reason="config")
    return Misuse(
        f"{thing}: {_key_path(at['path'], '')}",
        expected="a value that fits",
        got=at["what"],
        reason="config",
    )


def _key_path(place: str, key: str) -> str:
    path = place.removeprefix("$").removeprefix(".")
    return ".".join(part for part in (path, key) if part)


def known_keys(shape: type[msgspec.Struct], place: str) -> set[str]:
    """Return the keys that may stand at `place`, msgspec's path such as `$.probes[0]`."""
    here = [inspect.type_info(shape)]
    for match in _STEP.finditer(place.removeprefix("$")):
        here = [inner for kind in here for inner in _below(kind, match[1])]
    return {field.encode_name for kind in here for field in _fields(kind)}


def _fields(kind: inspect.Type) -> tuple[inspect.Field, ...]:
    if isinstance(kind, inspect.UnionType):
        return tuple(field for one in kind.types for field in _fields(one))
    return kind.fields if isinstance(kind, inspect.StructType) else ()


def _below(kind: inspect.Type, key: str | None) -> Iterator[inspect.Type]:
    """Yield what stands below `kind`: in its field `key`, or in its items when that is None."""
    if isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _below(one, key)
    elif isinstance(kind, inspect.StructType):
        yield from (field.type for field in kind.fields if field.encode_name == key)
    elif isinstance(kind, inspect.DictType):
        yield kind.value_type
    elif isinstance(kind, inspect.ListType | inspect.VarTupleType):
        yield kind.item_type
