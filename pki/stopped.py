"""Denials that would stop nobody: keys and nodes that a draft newly denies and nothing lists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

from embrasure.trust import layout
from pki.base import Base
from pki.drafts import Draft


def nobody(draft: Draft, base: Base, owners: Mapping[str, str]) -> Iterator[str]:
    """Yield each newly denied key and node that is nobody's, in words.

    owners: whose the keys in targets are. The directory is asked where the draft has it;
    revocations have none, so no node is judged there.
    """
    entries = [
        one for raw in draft.documents.values() for one in json.loads(raw).get("entries", ())
    ]
    nodes = {one["id"] for one in entries}
    receipts = {
        name for one in entries for name in (one["receipt"]["key"], _digest(one["receipt"]["key"]))
    }
    has_directory = draft.role != layout.REVOCATIONS
    before = {path: _denied(raw) for path, raw in base.former.items()}
    for path, raw in draft.documents.items():
        now, old = _denied(raw), before.get(path, {})
        for key in now.get("keys", ()):
            if key not in owners and key not in receipts and key not in old.get("keys", ()):
                where = "targets and directory do" if has_directory else "targets do"
                yield f"denied key {key[:8]} is nobody's: {where} not list it"
        for node in now.get("nodes", ()) if has_directory else ():
            if node not in nodes and node not in old.get("nodes", ()):
                yield f"denied node {node} is in no directory"


def _denied(raw: bytes) -> dict[str, list[str]]:
    """Return the lists of denials in a policy or in revocations; of another document none."""
    found = json.loads(raw)
    lists = found.get("denied") if found.get("type") == "policy" else found
    return lists if found.get("type") in ("policy", "revocations") else {}


def _digest(key: str) -> str:
    return hashlib.sha256(bytes.fromhex(key)).hexdigest()
