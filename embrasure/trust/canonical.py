"""One canonical form, one strict parser: each document has exactly one byte string and one digest.

The form is RFC 8785 (JCS) restricted to integers and ASCII member names; so limited, it equals
Python's compact sorted JSON in UTF-8.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from typing import NoReturn

import msgspec

from embrasure import limits
from embrasure.errors import Refused

_HIDDEN = frozenset({"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"})
# Each byte is looked at once: a string takes all it can and gives nothing back, and one that never
# ends is one match to the end, not a new search from each quote in it.
_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]')
_NO_MARKS = bytes(set(range(256)) - set(b"[]{}"))
_INNERMOST = re.compile(rb"\[\]|\{\}")
_MEMBER = re.compile(r"[\x20-\x7e]{1,128}")


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def canonical(value: object) -> bytes:
    """Return the one byte string of `value` (None, bool, int, str, list, tuple, dict).

    Source: RFC 8785, restricted to integers.
    """
    return _STRICT.encode(value).encode("utf-8")


def written(value: object) -> bytes:
    """Return what `canonical` returns, thirty times as fast, of a value that can hold nothing but
    its types: what `parse` returned, and documents.
    """
    return msgspec.json.encode(value, order="sorted")


class _Unplain(Exception):  # never leaves this module
    """A part of the text that is JSON, and not ours."""

    def __init__(self, expected: str, got: object) -> None:
        self.expected, self.got = expected, got


def _no_float(found: str) -> NoReturn:
    raise _Unplain("integers only", f"the number {found}")


def _whole(found: str) -> int:
    if len(found) > 17 or abs(int(found)) > limits.MAX_INTEGER:
        raise _Unplain("integers up to 2^53-1", f"a number of {len(found)} digits")
    return int(found)


_names: set[str] = set()  # that were looked at: a manifest has the same six in each entry


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Unplain("each member once", "a duplicate member")
    for name in found.keys() - _names:
        if not _MEMBER.fullmatch(name):
            raise _Unplain("ASCII member names", name)
        if len(_names) >= limits.MEMBER_NAMES_KEPT:
            _names.clear()
        _names.add(name)
    return found


# Made once: a message between two processes is shorter than the making of these.
_STRICT = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_members, parse_float=_no_float, parse_int=_whole, parse_constant=_no_float
)


def parse(raw: bytes, *, limit: int, document: str) -> dict[str, object]:
    """Return the object that `raw` holds, which is its one canonical form.

    limit: bytes. Raises Refused (`limit`, `bad-schema`); never anything else.
    Steps: 1 length, 2 UTF-8, 3 depth, 4 JSON without floats, duplicates or large integers,
    5 text is NFC without control or bidi code points, 6 canonical form, 7 an object.
    """

    def refuse(expected: str, got: object, reason: str = "bad-schema") -> Refused:
        return Refused(document, expected=expected, got=got, reason=reason)

    # 1. Nothing is looked at that is not bounded.
    if len(raw) > limit:
        raise refuse(f"at most {limit} bytes", f"{len(raw)} bytes", "limit")
    # 2.
    try:
        text = raw.decode("utf-8", errors="strict")
    except UnicodeDecodeError:
        raise refuse("UTF-8 text", "other bytes") from None
    # 3. Before the parser, which recurses.
    check_depth(raw, document)
    # 4.
    try:
        value = _DECODER.decode(text)
    except _Unplain as found:
        raise refuse(found.expected, found.got) from None
    except (ValueError, RecursionError):
        raise refuse("one JSON value", "something else") from None
    # 5. and 6.
    if "\\" in text or not (text.isascii() and text.isprintable()):
        # Else no string in it can hold anything but printable ASCII.
        check_text(value, document)
    if written(value) != raw:
        raise refuse("the canonical form (RFC 8785)", "another spelling of it")
    # 7.
    if not isinstance(value, dict):
        raise refuse("an object", type(value).__name__)
    return value


def check_depth(raw: bytes, document: str) -> None:
    """Return only when brackets nest at most `limits.JSON_DEPTH` deep outside strings."""
    if _is_flat(raw):
        return
    depth = 0
    # Strings first, so that a bracket inside one does not count.
    for mark in _MARK.findall(raw):
        if mark in (b"[", b"{"):
            depth += 1
            if depth > limits.JSON_DEPTH:
                raise Refused(
                    document,
                    expected=f"at most {limits.JSON_DEPTH} levels",
                    got="deeper nesting",
                    reason="limit",
                )
        elif mark in (b"]", b"}"):
            depth -= 1


def _is_flat(raw: bytes) -> bool:
    """Return whether brackets surely nest no deeper than that; for the usual document, quickly."""
    if b"\\" in raw or len(raw) > limits.PARSED_BYTES:
        return False  # a quote may be part of a string; and the pieces of a huge one take memory
    return nests_little(b"".join(raw.split(b'"')[::2]))


def nests_little(outside: bytes) -> bool:
    """Return whether brackets nest at most `limits.JSON_DEPTH` deep. outside: without strings."""
    marks = outside.translate(None, _NO_MARKS)
    for _ in range(limits.JSON_DEPTH):
        if not marks:
            break
        marks = _INNERMOST.sub(b"", marks)  # one level, everywhere
    return not marks


def check_text(value: object, document: str) -> None:
    """Return only when every string in `value` is NFC and shows all it holds."""
    if isinstance(value, str):
        if value.isascii() and value.isprintable():
            return
        if any(unicodedata.category(c) in _HIDDEN for c in value):
            raise Refused(document, expected="visible characters", got=value, reason="bad-schema")
        if unicodedata.normalize("NFC", value) != value:
            raise Refused(document, expected="NFC text", got=value, reason="bad-schema")
    elif isinstance(value, dict):
        for item in value.values():
            check_text(item, document)
    elif isinstance(value, list):
        for item in value:
            check_text(item, document)
