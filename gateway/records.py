"""Audit records: their one form, and the check of a chain of them; no database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust import canonical as form
from embrasure.trust.documents import Count, Digest, Document, Positive, Time, read

FILE = "audit.jsonl"
EVENT_BYTES = 32 * limits.KIB
Fact = str | int | list[str] | tuple[str, ...]


class Event(Document, frozen=True, kw_only=True):
    """One record of the journal.

    of: the intent that an outcome ends, else 0; key: what makes an act one act.
    """

    v: Literal[1]
    type: Literal["audit"]
    root: Digest
    n: Positive
    prev: Digest
    at: Time
    phase: Literal["intent", "outcome", "note"]
    of: Count
    actor: Annotated[str, Meta(pattern=r"^[a-z-]{1,32}/[a-z0-9][a-z0-9-]{0,62}$")]
    act: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9._-]{0,47}$")]
    key: Annotated[str, Meta(max_length=limits.COMMENT_CHARACTERS)]
    result: Annotated[str, Meta(max_length=64)]
    reason: Annotated[str, Meta(max_length=4 * limits.COMMENT_CHARACTERS)]
    facts: Annotated[dict[str, str | int | list[str]], Meta(max_length=32)]


@dataclass(frozen=True, slots=True)
class Head:
    """Number and SHA-256 of the last record: whoever keeps it can tell a lost tail or a fork."""

    n: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.n}:{self.sha256[:16]}"


FIRST = Head(0, "0" * 64)


def parse_event(line: bytes) -> Event:
    """Return the record in `line`; raises Refused."""
    return read(line, Event, limit=EVENT_BYTES, document="audit record")


class _Link(msgspec.Struct, frozen=True):
    n: int
    prev: str
    root: str


_links = msgspec.json.Decoder(_Link)


def follow_chain(lines: Iterable[bytes], *, root: str) -> tuple[Head, bytes]:
    """Return the head of a chain from its first record, and that last record.

    Reads of each record only what links it (its hash covers the rest): 1,000,000 records in
    seconds, for a gateway that starts. Raises Refused (`audit`).
    """
    head, last = FIRST, b""
    for line in lines:
        try:
            link = _links.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _broken(head, "a line that is no record") from None
        if (link.n, link.prev, link.root) != (head.n + 1, head.sha256, root):
            raise _broken(head, f"{link.n - 1}:{link.prev[:16]}")
        head, last = Head(link.n, form.sha256_hex(line)), line
    if last:
        parse_event(last)
    return head, last


def _broken(head: Head, got: str) -> Refused:
    return Refused(
        f"audit record {head.n + 1}", expected=f"to follow {head}", got=got, reason="audit"
    )


def check_chain(
    lines: Iterable[bytes], *, root: str, start: Head = FIRST, held: Head = FIRST
) -> Head:
    """Return the head of a chain in which every record names the one before it.

    start: what the first line must follow; held: a head seen before, which must lie on the
    chain. Raises Refused (`audit`).
    """
    head = start
    seen = held in (FIRST, start)
    for line in lines:
        event = parse_event(line)
        if (event.n, event.prev, event.root) != (head.n + 1, head.sha256, root):
            raise _broken(head, f"{event.n - 1}:{event.prev[:16]}")
        head = Head(event.n, form.sha256_hex(line))
        seen = seen or head == held
    if not seen:
        raise Refused(
            "audit journal",
            expected=f"to contain the head seen before, {held}",
            got=f"{head}",
            hint="its tail was cut, or another history was written",
            reason="audit",
        )
    return head


def verify_file(path: Path, *, root: str, held: Head = FIRST) -> Head:
    """Return the head of the journal file at `path` when its whole chain holds.

    held: the last head somebody saw; a file that does not contain it lost its tail or forked.
    Raises Refused (`audit`).
    """
    raw = path.read_bytes()
    if raw and not raw.endswith(b"\n"):
        raise Refused("audit journal", expected="whole lines", got="a cut one", reason="audit")
    return check_chain(raw.splitlines(), root=root, held=held)
