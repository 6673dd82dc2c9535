"""Files that a crash left unfinished: at most one for each crash, and gone at the next start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from embrasure.errors import EmbrasureError
from embrasure.fs import Folder
from node.paths import Paths

_GENERATIONS = "trusted"  # sweeps itself whenever it grows


def clear(paths: Paths) -> int:
    """Return how many there were in the folders that only apply writes; they are gone.

    For the holder of this node's lock.
    """
    tops = [paths.state, paths.floors, paths.journal, paths.outbox, paths.sent, paths.keys]
    tops += [path for path in paths.tuf.iterdir() if path.is_dir() and path.name != _GENERATIONS]
    return _clear(tops)


def clear_own(paths: Paths) -> int:
    """The same for the folder that only fetch writes, at its start."""
    return _clear([paths.tls])


def _clear(folders: Iterable[Path]) -> int:
    found = 0
    for path in folders:
        # A disk that takes no change is no reason not to start.
        with contextlib.suppress(EmbrasureError), Folder.open(path) as folder:
            found += folder.remove_unfinished()
    return found
