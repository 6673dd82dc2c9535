"""Where the programs of this host are that the node itself starts: fixed folders, never a PATH."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_FOLDERS = (Path("/usr/bin"), Path("/bin"), Path("/usr/sbin"), Path("/sbin"))


def find_program(name: str) -> str | None:
    """Return the full path of a program, None where this host lacks it."""
    for folder in _FOLDERS:
        path = folder / name
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return None


def system_python() -> str | None:
    """Return an interpreter that every user of this host can start, None where there is none."""
    own = os.path.realpath(sys.executable)
    found = own if own.startswith("/usr/") else find_program("python3")
    return None if found is None else os.path.realpath(found)
