"""The paths of a release: names that stay inside it, and entries that make one tree.

Never repaired: what is wrong is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust import canonical as form

if TYPE_CHECKING:
    from embrasure.bundle.manifest import Entry

TOPS = ("code", "config")
FILE_MODES = ("0444", "0555")
# What most paths are, and no more than `check_path` takes after a closer look.
_PLAIN = re.compile(
    rf"(?:{'|'.join(TOPS)})"
    rf"(?:/[A-Za-z0-9_][A-Za-z0-9_.+@=-]{{0,{limits.NAME_BYTES - 1}}}){{1,{limits.PATH_DEPTH - 1}}}"
)


def _refuse(path: str, expected: str, got: object, reason: str) -> Refused:
    return Refused(f"manifest entry {path}", expected=expected, got=got, reason=reason)


def check_path(path: str) -> tuple[str, ...]:
    """Return the parts of a path that stays inside its release; raises Refused (`bad-path`).

    Relative, below `code/` or `config/`, NFC, visible characters, no empty, `.` or `..` part, no
    leading hyphen. Never repaired: what is wrong is refused.
    """
    if _PLAIN.fullmatch(path) and len(path) <= limits.PATH_BYTES:
        return tuple(path.split("/"))
    if not path or len(path.encode("utf-8", errors="surrogatepass")) > limits.PATH_BYTES:
        raise _refuse(path, f"1 to {limits.PATH_BYTES} bytes", f"{len(path)} characters", "limit")
    if path.startswith("/") or "\\" in path or not _is_nfc(path):
        raise _refuse(path, "a relative path with `/`, in NFC", path, "bad-path")
    if not _is_visible(path):
        raise _refuse(path, "visible characters", path, "bad-path")
    parts = tuple(path.split("/"))
    if len(parts) > limits.PATH_DEPTH or any(len(p.encode()) > limits.NAME_BYTES for p in parts):
        raise _refuse(path, f"{limits.PATH_DEPTH} parts of {limits.NAME_BYTES} bytes", "more",
                      "limit")  # fmt: skip
    if any(part in ("", ".", "..") or part.startswith("-") for part in parts):
        raise _refuse(path, "no empty, `.`, `..` part, no leading hyphen", path, "bad-path")
    if len(parts) < 2 or parts[0] not in TOPS:
        raise _refuse(path, "a path below code/ or config/", path, "bad-path")
    return parts


def _is_nfc(text: str) -> bool:
    return text.isascii() or unicodedata.is_normalized("NFC", text)


def _is_visible(text: str) -> bool:
    if text.isascii():
        return text.isprintable()
    return not any(
        unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp") for c in text
    )


def check_tree(files: tuple[Entry, ...]) -> None:
    """Return only when `files` make one tree: sorted, distinct after case folding, parents are
    folders, links stay in their top folder and point to no link.

    Raises Refused (`bad-path`, `bad-link`, `bad-mode`, `duplicate`, `limit`, `bad-schema`).
    """
    kinds = {entry.path: entry.kind for entry in files}
    paths = [entry.path for entry in files]
    folded: dict[str, str] = {}
    parents: set[str] = set()
    for entry in files:
        parts = check_path(entry.path)
        _check_entry(entry)
        # Each prefix too: `Lib/a` and `lib/b` would be one folder on another file system. One that
        # was looked at had its own looked at first.
        is_known = entry.path.rpartition("/")[0] in parents
        for length in range(1, 1 if is_known else len(parts)):
            prefix = "/".join(parts[:length])
            if prefix not in parents:
                _check_spelling(entry, prefix, folded)
                if kinds.get(prefix, "dir") != "dir":
                    reason = "bad-link" if kinds[prefix] == "link" else "bad-path"
                    raise _refuse(entry.path, "a folder as parent", kinds[prefix], reason)
                parents.add(prefix)
        _check_spelling(entry, entry.path, folded)
    if len(kinds) != len(paths):
        raise Refused("manifest", expected="each path once", got="a path twice", reason="duplicate")
    if paths != sorted(paths):
        raise Refused("manifest", expected="sorted paths", got="others", reason="bad-schema")
    known = frozenset(folded.values())  # once: a manifest may be links and nothing else
    for entry in files:
        if entry.kind == "link":
            _check_link(entry, kinds, known)
    if sum(entry.length for entry in files) > limits.RELEASE_BYTES:
        raise Refused("manifest", expected="a release of 1 TiB", got="more", reason="limit")


def _check_spelling(entry: Entry, path: str, folded: dict[str, str]) -> None:
    """Return only when no other path is the same on a file system that folds case or form."""
    key = path.lower() if path.isascii() else unicodedata.normalize("NFC", path.casefold())
    if folded.setdefault(key, path) != path:
        raise _refuse(entry.path, "one spelling", folded[key], "duplicate")


_EMPTY = form.sha256_hex(b"")


def _check_entry(entry: Entry) -> None:
    if entry.kind == "file":
        if entry.mode not in FILE_MODES:
            raise _refuse(entry.path, "mode 0444 or 0555", entry.mode, "bad-mode")
        if entry.target is not None or entry.length > limits.FILE_BYTES:
            raise _refuse(entry.path, "a file of 64 GiB, without target", "else", "limit")
    elif entry.kind == "dir":
        if entry.mode != "0555":
            raise _refuse(entry.path, "mode 0555", entry.mode, "bad-mode")
        if (entry.target, entry.length, entry.sha256) != (None, 0, _EMPTY):
            raise _refuse(entry.path, "a folder without content", "content", "bad-schema")
    else:
        raw = (entry.target or "").encode()
        if entry.mode != "0777":
            raise _refuse(entry.path, "mode 0777", entry.mode, "bad-mode")
        if (entry.length, entry.sha256) != (len(raw), form.sha256_hex(raw)) or not raw:
            raise _refuse(entry.path, "a link's own target and digest", "else", "bad-link")


def _check_link(entry: Entry, kinds: Mapping[str, str], known: frozenset[str]) -> None:
    """A link is relative, stays in its top folder, and names a file or folder of this release."""
    target = entry.target or ""
    if target.startswith("/") or not re.fullmatch(r"[^\x00-\x1f\\]{1,1024}", target):
        raise _refuse(entry.path, "a relative target", target, "bad-link")
    parts = entry.path.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            if len(parts) <= 1:
                raise _refuse(entry.path, f"a target inside {parts[0]}/", target, "bad-link")
            parts.pop()
        elif part in ("", "."):
            raise _refuse(entry.path, "a plain target", target, "bad-link")
        else:
            parts.append(part)
            # Checked at every step, so `x/..` cannot pass through a link.
            if kinds.get("/".join(parts)) == "link":
                raise _refuse(entry.path, "no link to a link", target, "bad-link")
    if "/".join(parts) not in known:
        raise _refuse(entry.path, "a target in this release", target, "bad-link")
