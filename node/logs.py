"""One line for each event on standard error: key=value, a priority where journald reads it.

What comes from outside ends up in messages: a line break in it must not look like another event.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TextIO

from embrasure import limits
from embrasure.errors import EmbrasureError, shown

LOG = logging.getLogger(__name__)
FIELDS = "fields"  # LOG.info("event", extra={FIELDS: {...}}): more keys of that event
_PLAIN = re.compile(r"[A-Za-z0-9._:/@+-]+")
_PRIORITY = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_UNSAID = "unsaid"
_FRAMES = 4  # of a mistake of ours: where it was, and how one came there


class Line(logging.Formatter):
    """Formats an event. process: which one of the node; is_journal: systemd reads the stream."""

    def __init__(self, process: str, *, is_journal: bool) -> None:
        super().__init__()
        self._process, self._is_journal = process, is_journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the one line of `record`."""
        said: dict[str, object] = {
            "process": self._process,
            "level": record.levelname.lower(),
            "at": record.name,
            "message": record.getMessage(),
        }
        problems = [one for one in _arguments(record) if isinstance(one, EmbrasureError)]
        if problems:
            said["reason"] = problems[0].word
        fields = getattr(record, FIELDS, None)
        if isinstance(fields, Mapping):
            said.update(fields)
        if unsaid := getattr(record, _UNSAID, 0):
            said["unsaid"] = unsaid
        if record.exc_info and record.exc_info[1] is not None:
            # Names and places only: values of variables never get here.
            said["exception"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            said["where"] = where(record.exc_info[2])
        prefix = f"<{priority(record.levelno)}>" if self._is_journal else ""
        return prefix + " ".join(f"{key}={quoted(str(value))}" for key, value in said.items())


class Sparing(logging.Filter):
    """Lets each place in the code speak often enough for people, and no more.

    Whoever can cause one event a thousand times a second must not drown the others in it, nor make
    a journal drop what it takes from this process.
    """

    def __init__(self, tick: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._tick, self._mutex = tick, threading.Lock()
        self._places: dict[tuple[str, int], tuple[float, float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the event is told; the next one that is says how many were not."""
        place, now = (record.name, record.lineno), self._tick()
        with self._mutex:
            room, since, unsaid = self._places.get(place, (float(limits.LOG_LINES), now, 0))
            room += (now - since) * limits.LOG_LINES / 60
            room = min(room, float(limits.LOG_LINES))
            is_told = room >= 1
            self._places[place] = (room - is_told, now, 0 if is_told else unsaid + 1)
        if is_told and unsaid:
            setattr(record, _UNSAID, unsaid)
        return is_told


def _arguments(record: logging.LogRecord) -> tuple[object, ...]:
    return record.args if isinstance(record.args, tuple) else ()


def quoted(value: str) -> str:
    """Return `value` as it stands after a `=`: nothing in it ends the value or the line."""
    if _PLAIN.fullmatch(value) and len(value) <= limits.LOG_CHARACTERS:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{shown(escaped, limits.LOG_CHARACTERS)}"'


def where(trace: TracebackType | None) -> str:
    """Return the last places of a traceback, innermost first."""
    frames = traceback.extract_tb(trace)[-_FRAMES:]
    return " < ".join(f"{f.filename}:{f.lineno} {f.name}" for f in reversed(frames))


def priority(level: int) -> int:
    """Return the syslog priority of a level."""
    return next((number for least, number in _PRIORITY if level >= least), 7)


def is_journal(stream: TextIO, told: str) -> bool:
    """Return whether `stream` is the one that systemd named (JOURNAL_STREAM): no redirection."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return told == f"{found.st_dev}:{found.st_ino}"


def start(process: str) -> None:
    """From now on every event of this process is a line on standard error, mistakes too."""
    handler = logging.StreamHandler(sys.stderr)
    journal = is_journal(sys.stderr, os.environ.get("JOURNAL_STREAM", ""))
    handler.setFormatter(Line(process, is_journal=journal))
    handler.addFilter(Sparing())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for ours in ("embrasure", "node"):
        logging.getLogger(ours).setLevel(logging.INFO)
    # It warns of every signature above the threshold that is not there.
    logging.getLogger("tuf").setLevel(logging.ERROR)
    sys.excepthook = _uncaught
    threading.excepthook = lambda told: _uncaught(
        told.exc_type, told.exc_value or told.exc_type(), told.exc_traceback
    )


def _uncaught(
    kind: type[BaseException], problem: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    LOG.critical("a mistake of ours", exc_info=(kind, problem, trace))
