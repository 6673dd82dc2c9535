"""Keys of a node whose making was cut off: nobody has seen them, so they are made anew.

Only what can never have been a node is cleared: as soon as one thing says that there was one, it
is left to a person.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from embrasure.errors import EmbrasureError, Misuse
from embrasure.fs import Folder
from embrasure.trust.floors import Floors, FloorStore
from node.paths import Paths


def clear(paths: Paths) -> None:
    """No key and no floor lies below these paths.

    Raises Misuse (`exists`) when there is, or was, a node.
    """
    for what in _signs_of_a_node(paths):
        raise Misuse(
            str(what), expected="a node without keys", got="a node, or what is left of one",
            hint="keys are never overwritten; choose another --root", reason="exists",
        )  # fmt: skip
    for path in (
        paths.seal_key, paths.receipt_key, paths.tls_key, paths.boot_cert, paths.floors / "a",
        paths.floors / "b",
    ):  # fmt: skip
        _drop(path)


def _signs_of_a_node(paths: Paths) -> Iterator[Path]:
    """Yield each thing that is written only after the keys are whole."""
    yield from (
        path
        for path in (
            paths.identity, paths.key_copy, paths.node_toml, paths.statement, paths.enrolled,
            paths.taken,
        )
        if path.exists()
    )  # fmt: skip
    known = {paths.seal_key, paths.receipt_key}
    yield from (path for path in _inside(paths.keys) if path not in known and not _is_temp(path))
    folders = (paths.outbox, paths.sent, paths.tuf, paths.journal, paths.serving)
    yield from (path for folder in folders for path in _inside(folder))
    yield from map(paths.app, paths.installed())
    store = FloorStore(paths.floors)
    if store.exists() and not _are_fresh(store):
        yield paths.floors


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_temp(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".new")


def _are_fresh(store: FloorStore) -> bool:
    """Whether these are the first floors of some epoch: nothing was ever seen with them."""
    try:
        found = store.load(repair=False)
    except EmbrasureError:
        return False
    return found == Floors.first(epoch=found.epoch)


def _drop(path: Path) -> None:
    if path.parent.is_dir():
        with Folder.open(path.parent) as folder:
            folder.remove_unfinished()
            folder.unlink(path.name, missing_ok=True)
