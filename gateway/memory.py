"""What an operator's machine remembers: what it signed under each version, and the audit head.

A stolen gateway could ask a person to sign two contents under one number, or show two histories.
"""

from __future__ import annotations

from pathlib import Path

from embrasure import fs, limits
from embrasure.errors import Damaged, Denied, NotFound, Refused
from embrasure.trust.documents import Count, Digest, Document, Positive, read, write
from gateway.records import FIRST, Head

_SIGNED, _HEAD, _LOCK = "signed.json", "audit-head.json", "memory.lock"
_BYTES = 16 * limits.MIB


class _Signed(Document, frozen=True, kw_only=True):
    root: Digest
    # role -> version -> SHA-256 of the role's signed bytes
    roles: dict[str, dict[str, Digest]]


class _SeenHead(Document, frozen=True, kw_only=True):
    root: Digest
    n: Positive | Count
    sha256: Digest


class Memory:
    """The files below an operator's state folder; safe between processes."""

    def __init__(self, folder: Path, *, root: str) -> None:
        self._folder, self._root = folder, root

    def remember(self, role: str, version: int, sha256: str) -> None:
        """This machine signs this content, and no other, under this version of `role`.

        Raises Denied (`second-content`) before anything is signed.
        """
        with fs.lock(self._folder / _LOCK, seconds=limits.LOCK_SECONDS):
            held = self._signed()
            mine = held.roles.get(role, {})
            if mine.get(str(version), sha256) != sha256:
                raise Denied(
                    f"{role} v{version}",
                    expected=f"the content signed before, {mine[str(version)][:16]}",
                    got=sha256[:16],
                    untouched="nothing was signed",
                    hint="a number is signed once: tell the proposer to propose again, and the "
                    "security team that the gateway offered this",
                    reason="second-content",
                )
            roles = {**held.roles, role: {**mine, str(version): sha256}}
            fs.replace_file(self._folder, _SIGNED, write(_Signed(root=self._root, roles=roles)))

    def _signed(self) -> _Signed:
        try:
            raw = fs.read_file(self._folder / _SIGNED, limit=_BYTES, private=True)
            held = read(raw, _Signed, limit=_BYTES, document="signed.json")
        except NotFound:
            return _Signed(root=self._root, roles={})
        except Refused as problem:
            raise self._damaged(_SIGNED, problem) from None
        if held.root != self._root:
            raise self._damaged(_SIGNED, "another fleet")
        return held

    def head(self) -> Head:
        """Return the last audit head that this machine saw."""
        try:
            raw = fs.read_file(self._folder / _HEAD, limit=limits.KIB, private=True)
            held = read(raw, _SeenHead, limit=limits.KIB, document=_HEAD)
        except NotFound:
            return FIRST
        except Refused as problem:
            raise self._damaged(_HEAD, problem) from None
        if held.root != self._root:
            raise self._damaged(_HEAD, "another fleet")
        return Head(held.n, held.sha256)

    def keep_head(self, head: Head) -> None:
        """A later chain must contain this head."""
        seen = _SeenHead(root=self._root, n=head.n, sha256=head.sha256)
        fs.replace_file(self._folder, _HEAD, write(seen))

    def _damaged(self, name: str, got: object) -> Damaged:
        return Damaged(
            str(self._folder / name),
            expected="what this machine wrote",
            got=got,
            untouched="nothing was signed",
            hint="use another state folder only after asking what was signed with this one",
        )
