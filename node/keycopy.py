"""A second copy of the node's keys, with a hash of its own: what heals the first.

It lies in the folder of the keys, as private as they are. Two files, as with floors.
"""

from __future__ import annotations

from stat import S_ISDIR
from typing import Annotated, Literal, TypeVar

from msgspec import Meta

from embrasure.aside import set_aside
from embrasure.errors import EmbrasureError
from embrasure.fs import Folder
from embrasure.trust.documents import Digest, Document, EnvName, NodeId, Positive
from embrasure.trust.floors import PairStore
from node.config import Domain
from node.paths import Paths

T = TypeVar("T", bound=Document)


class Card(Document, frozen=True, kw_only=True):
    """Who this node said it is when its keys were made."""

    v: Literal[1]
    type: Literal["identity"]
    root: Digest
    node: NodeId
    env: EnvName
    mode: Literal["push", "pull"]
    domain: Domain
    epoch: Positive


class KeyCopy(Document, frozen=True, kw_only=True):
    """Who the node is, and its private keys as their files have them, in hex."""

    v: Literal[1]
    type: Literal["keys"]
    card: Card
    receipt: Digest
    seal: Annotated[str, Meta(pattern=r"^([0-9a-f]{64}|[0-9a-f]{192})?$")]

    def __repr__(self) -> str:
        """The node's id: never a key."""
        return f"KeyCopy({self.card.node})"


def _store(paths: Paths) -> PairStore[KeyCopy]:
    return PairStore(paths.key_copy, KeyCopy)


def load(paths: Paths) -> KeyCopy | None:
    """Return the copy, None when there is none or neither file of it is whole.

    Nothing is written.
    """
    store = _store(paths)
    try:
        return store.load(repair=False) if store.exists() else None
    except EmbrasureError:
        return None


def keep(paths: Paths, keys: KeyCopy) -> None:
    """Both files of the copy are whole and hold `keys`; for the one writer."""
    keep_pair(_store(paths), keys)


def keep_pair(store: PairStore[T], value: T) -> None:
    """Both files of `store` are whole and hold `value`, whatever lay there before."""
    with Folder.open(store.folder.parent) as above:
        set_aside(above, store.folder.name, kind=S_ISDIR)
        with above.ensure(store.folder.name) as folder:
            for name in ("a", "b"):
                set_aside(folder, name)
            try:
                before = store.load() if store.exists() else None
            except EmbrasureError:
                before = None
            if before == value:
                return
            if before is not None:
                store.save(value)
                return
            for name in ("a", "b"):
                folder.unlink(name, missing_ok=True)
            store.create(value)
