"""Reads the usual document in one step: plain text, in its one form, with the fields of its shape.

What is accepted here is what `documents.read` accepts after a closer look, and never more: whatever
is not plain, it looks at. A manifest of thousands of files is read in half the time.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from embrasure import limits
from embrasure.shapes import prepare
from embrasure.trust.canonical import nests_little

T = TypeVar("T", bound=msgspec.Struct)
_NAME_BYTES = 128  # of a member, as in `canonical`
_UNUSUAL = re.compile(
    rb"[0-9](?:[.eE]|[0-9]{15})"
)  # outside of strings: no integer, or a large one


def read_plain(raw: bytes, shape: type[T], *, apart: frozenset[bytes]) -> T | None:
    """Return the document, None when it is to be looked at closely, or refused.

    apart: members and strings that need a look of their own

    The bytes are the canonical form because they come out again: of plain text without an escape
    there is one way to write a string, of an integer one, and the members are in order, each once.
    """
    # Large ones are read in pieces that take less memory.
    if len(raw) > limits.PARSED_BYTES or b"\\" in raw or not raw.isascii():
        return None
    pieces = raw.split(b'"')  # without an escape every second one is a string
    strings, outside = frozenset(pieces[1::2]), b'"'.join(pieces[::2])
    if strings & apart or _UNUSUAL.search(outside) or not nests_little(outside):
        return None
    if not raw.decode("ascii").isprintable() or not _are_names_fit(raw, pieces, strings):
        return None
    prepare(shape)
    try:
        found = msgspec.json.decode(raw, type=shape, strict=True)
    except msgspec.MsgspecError:
        return None  # the closer look says why
    return found if _comes_out_again(raw, found) else None


def _comes_out_again(raw: bytes, found: msgspec.Struct) -> bool:
    return msgspec.json.encode(found, order="sorted") == raw


def _are_names_fit(raw: bytes, pieces: list[bytes], strings: frozenset[bytes]) -> bool:
    # Behind a name, and nowhere else, a colon follows the quote.
    if b'"":' in raw:
        return False
    if max(map(len, strings), default=0) <= _NAME_BYTES:
        return True
    pairs = zip(pieces[1::2], pieces[2::2], strict=False)
    return all(len(one) <= _NAME_BYTES for one, after in pairs if after[:1] == b":")
