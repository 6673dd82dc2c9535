"""What a brand-new node would find in a folder: verified whole, from the anchor on.

Nothing is shown before it stood here: metadata, every document it lists, every blob they name.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from embrasure import limits
from embrasure.bundle.manifest import parse_manifest
from embrasure.clock import Clock
from embrasure.errors import NotFound, Refused
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.client import TrustClient
from embrasure.trust.source import Source
from embrasure.trust.view import Target, View

_MANIFEST = re.compile(r"[a-z0-9]+/[a-z0-9-]+/m-([0-9a-f]{64})\.json")
# Raises when the blob is not there whole: (digest, length).
CheckBlob = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Checked:
    """A verified set. files: every repository path of it but the timestamp; documents: target path
    to bytes of what the asked roles list; blobs: how many were checked.
    """

    view: View
    files: tuple[str, ...]
    documents: dict[str, bytes]
    blobs: int


def check_repository(
    source: Source,
    *,
    anchor: bytes,
    clock: Clock,
    roles: Sequence[str] | None,
    keep: Collection[str],
    check_blob: CheckBlob,
    known: frozenset[str] = frozenset(),
) -> Checked:
    """Return the whole set in `source` after each file of it was verified; raises Refused.

    roles: delegated roles that belong here, None = all; keep: roles whose documents are wanted;
    known: digests of manifests whose blobs were checked before.
    Steps: 1 metadata as a client sees it that holds nothing yet, 2 each listed target file, 3 each
    blob of each manifest. That nothing goes back is the caller's: it needs what was held before.
    """
    # 1. A client with a memory would not ask for files it has, and they would go unseen.
    with tempfile.TemporaryDirectory(prefix="embrasure-") as folder:
        client = TrustClient(Path(folder), anchor, clock=clock)
        # An app that nobody renewed must not stop the others; nodes refuse it by themselves.
        view = client.refresh(source, roles=roles, tolerate_expired=True)
    files = metadata_files(view)
    documents: dict[str, bytes] = {}
    blobs: dict[str, int] = {}
    for role in view.roles.values():
        for path, target in role.targets.items():
            # 2.
            raw = read_target(source, path, target)
            files.append(layout.target_file(path, target.sha256))
            if role.name in keep:
                documents[path] = raw
            found = _MANIFEST.fullmatch(path)
            if found is not None and found[1] not in known:
                blobs.update(parse_manifest(raw).blobs())
    # 3.
    for digest, length in blobs.items():
        check_blob(digest, length)
    files.extend(layout.blob_file(digest) for digest in blobs)
    return Checked(view, tuple(files), documents, len(blobs))


def manifests_of(view: View) -> frozenset[str]:
    """Return the digests of all manifests that `view` lists."""
    names = (_MANIFEST.fullmatch(path) for role in view.roles.values() for path in role.targets)
    return frozenset(name[1] for name in names if name is not None)


def metadata_files(view: View) -> list[str]:
    """Return the repository paths of the metadata in `view`, with every root that led to it."""
    root = view.roles[layout.ROOT].version
    found = [layout.metadata_file(layout.ROOT, version) for version in range(1, root + 1)]
    for role in view.roles.values():
        if role.name not in (layout.ROOT, layout.TIMESTAMP):
            found.append(layout.metadata_file(role.name, role.version))
    return found


def read_target(source: Source, path: str, target: Target) -> bytes:
    """Return the bytes of a listed target file; raises Refused (`bad-hash`, `limit`, ...)."""
    if target.length > limits.MANIFEST_BYTES:
        raise Refused(path, expected="a document", got=f"{target.length} bytes", reason="limit")
    file = layout.target_file(path, target.sha256)
    try:
        raw = b"".join(source.fetch(file, offset=0, limit=target.length))
    except NotFound:
        raise Refused(path, expected="the file that metadata lists", got="none",
                      reason="missing-file") from None  # fmt: skip
    if len(raw) != target.length or sha256_hex(raw) != target.sha256:
        raise Refused(path, expected="the listed bytes", got="others", reason="bad-hash")
    return raw
