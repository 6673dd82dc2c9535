"""Whether an install has left alone what ran before it: then nothing is to be undone or proved."""

from __future__ import annotations

from embrasure.fs import Folder
from node import switch
from node.ground import Ground
from node.states import Record


def is_untouched(ground: Ground, record: Record) -> bool:
    """Return whether the old release is linked, runs, and has its own data."""
    back, running = record.back, ground.supervisor.running(record.app)
    if record.migrated != "no" or back is None:
        return False
    if running is None or running.unit.release != back.id:
        return False
    with Folder.open(ground.paths.app(record.app)) as folder:
        return switch.current(folder) == back.id
