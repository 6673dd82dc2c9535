"""Line differences of small text files between two releases, for people who approve; bounded."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator

from embrasure import limits
from embrasure.bundle.diff import Diff, FileChange
from embrasure.bundle.manifest import Entry
from embrasure.errors import EmbrasureError, shown

SHOWN_BYTES = 64 * limits.KIB  # of differences in one review
FILE_BYTES = 32 * limits.KIB  # of one file, old or new
Fetch = Callable[[str, int], bytes]


def text_changes(found: Diff, fetch: Fetch) -> list[str]:
    """Return the differences, then what was left out and why; each line is safe for a terminal.

    fetch: (digest, length) -> verified bytes. A file that cannot be fetched is named, not skipped.
    """
    lines: list[str] = []
    left_out: list[str] = []
    room = SHOWN_BYTES
    # What can run comes first: it must not be what the bound cuts off.
    for change in sorted(found.files, key=lambda item: (not item.is_notable, item.path)):
        if not _has_content(change):
            continue
        told = list(_one(change, fetch))
        size = sum(map(len, told))
        if not told or size > room:
            left_out.append(shown(change.path))
            continue
        room -= size
        lines += told
    if left_out:
        named = ", ".join(left_out[:20])
        more = f" and {len(left_out) - 20} more" if len(left_out) > 20 else ""
        lines.append(f"not shown as text (large, binary or beyond the bound): {named}{more}")
    return lines


def _has_content(change: FileChange) -> bool:
    entries = [entry for entry in (change.old, change.new) if entry and entry.kind == "file"]
    return len({entry.sha256 for entry in entries}) + (len(entries) == 1) > 1


def _one(change: FileChange, fetch: Fetch) -> Iterator[str]:
    old, new = _text(change.old, fetch), _text(change.new, fetch)
    if old is None or new is None:
        return
    name = shown(change.path)
    for line in difflib.unified_diff(old, new, f"now/{name}", f"proposed/{name}", n=2, lineterm=""):
        yield shown(line, 400)


def _text(entry: Entry | None, fetch: Fetch) -> list[str] | None:
    """Return the lines of a file; empty for none, None for what is no small text."""
    if entry is None or entry.kind != "file":
        return []
    if entry.length > FILE_BYTES:
        return None
    try:
        raw = fetch(entry.sha256, entry.length)
        return [] if b"\0" in raw else raw.decode("utf-8").splitlines()
    except (EmbrasureError, UnicodeDecodeError):
        return None
