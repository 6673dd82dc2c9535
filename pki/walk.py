"""Proof, before a new root is in force, that a client on an old root walks forward to it.

With the very client that nodes run: from the first root, and from the one in force.
"""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Refused
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.folder import FolderSource
from pki import store
from pki.drafts import Draft
from pki.folder import TrustFolder


def check_walk(trust: TrustFolder, draft: Draft, *, at: datetime) -> None:
    """Return only when clients end at the draft's version of root; raises Refused.

    A client that is at the version in force takes one step, a new one takes all of them.
    """
    with tempfile.TemporaryDirectory(prefix="embrasure-walk-") as name:
        folder = Path(name)
        source = folder / "repository"
        for version in store.versions(trust.path, layout.ROOT):
            path = layout.metadata_file(layout.ROOT, version)
            store.write(source, path, store.read(trust.path, path, limit=limits.ROOT_BYTES))
        old = _client(folder / "old", trust, at)
        _walk(old, source, draft.version - 1)
        path = layout.metadata_file(layout.ROOT, draft.version)
        store.write(source, path, draft.metadata.to_bytes())
        _walk(old, source, draft.version)
        _walk(_client(folder / "new", trust, at), source, draft.version)


def _client(folder: Path, trust: TrustFolder, at: datetime) -> TrustClient:
    store.make_folder(folder)
    return TrustClient(folder, trust.anchor, clock=lambda: at)


def _walk(client: TrustClient, source: Path, wanted: int) -> None:
    """The client has read all roots there are; raises Refused when it is not at `wanted`."""
    problem: EmbrasureError | None = None
    try:
        client.refresh(FolderSource(source))
    except NotFound:
        pass  # there is no timestamp here: the walk over the roots is all that is asked for
    except EmbrasureError as found:
        problem = found
    reached = client.workflow.floors().versions.get(layout.ROOT, 0)
    if reached != wanted or problem is not None:
        raise Refused(
            f"root v{wanted}",
            expected="clients on the old root to walk to it",
            got=str(problem) if problem is not None else f"a client that stays at v{reached}",
            untouched="what was in force stays in force",
            reason="root-walk",
        )
