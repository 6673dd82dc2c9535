"""A new folder is made whole or not at all: a full disk leaves nothing half-made behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from embrasure.errors import EmbrasureError
from embrasure.fs import Folder


@contextlib.contextmanager
def all_or_nothing(folder: Path) -> Iterator[None]:
    """What failed inside has left no new `folder`; one that was there before is never removed."""
    was_new = not folder.exists()
    try:
        yield
    except EmbrasureError:
        if was_new and folder.exists():
            with Folder.open(folder.resolve().parent) as parent:
                parent.remove_tree(folder.name)
        raise
