"""`embrasure node apply` and `node trust`: a folder as the source of one look; the same doors.

The running agent's apply does it; when none runs, this process is the node's apply for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from embrasure.bundle.packing import PackedSource
from embrasure.errors import Failed, Misuse, Unavailable
from embrasure.trust.folder import FolderSource
from embrasure.trust.listing import TrustFolderSource
from node.answering import Deaf, NoSource, converse
from node.apply_main import opened, recover
from node.confirm_messages import AwaitsNote, LocalAsk, RepairAsk
from node.desk import note_of, trusted
from node.ipc import to_apply
from node.messages import (
    AnswerNote,
    ProgressNote,
    ReceiptNote,
    TrustAsk,
    TrustNote,
)
from node.paths import Paths

Say = Callable[[str], None]


class States:
    """Says each state of an install once."""

    def __init__(self, say: Say) -> None:
        self._say, self._last = say, ""

    def tell(self, state: str) -> None:
        """`state` was said, if it is news."""
        if state != self._last:
            self._last = state
            self._say(state)


class Hears:
    """What apply says over the socket."""

    def __init__(self, states: States) -> None:
        self._states = states

    def receipt(self, note: ReceiptNote) -> None:
        """The receipt waits in the outbox."""

    def progress(self, note: ProgressNote) -> None:
        """One line for each state."""
        self._states.tell(note.state)

    def awaits(self, note: AwaitsNote) -> None:
        """Nothing that an administrator installs here awaits a word."""


class Reports:
    """What an Acceptor in this process says."""

    def __init__(self, states: States) -> None:
        self._states = states

    def receipt(self, signed: bytes, body: bytes) -> None:
        """The receipt waits in the outbox."""

    def progress(self, state: str, done: int, total: int) -> None:
        """One line for each state."""
        self._states.tell(state)

    def awaits(self, note: AwaitsNote) -> None:
        """Nothing that an administrator installs here awaits a word."""


def apply_folder(paths: Paths, folder: Path, say: Say) -> list[AnswerNote]:
    """Return what became of each app after one look into the repository at `folder`."""
    if not (folder / "metadata").is_dir():
        raise Misuse(str(folder), expected="a repository: a folder with metadata/", got="another")
    source, states = PackedSource(FolderSource(folder)), States(say)
    try:
        channel = to_apply(paths)
    except Unavailable as absent:
        if absent.reason != "agent-not-running":
            raise
    else:
        with channel:
            return converse(channel, LocalAsk(), source, Hears(states)).answers
    with opened(paths) as acceptor:
        recover(acceptor)
        found = acceptor.poll(source, Reports(states), is_local=True)
        answers = [note_of(answer) for answer in found]
    say("no agent runs here, so the apps are stopped again: embrasure node run")
    return answers


def repair(paths: Paths, app: str, folder: Path | None, say: Say) -> AnswerNote:
    """Return what became of the app's committed release; `folder`: where lost files may lie."""
    source = NoSource() if folder is None else FolderSource(folder)
    states = States(say)
    try:
        channel = to_apply(paths)
    except Unavailable as absent:
        if absent.reason != "agent-not-running":
            raise
    else:
        with channel:
            (answer,) = converse(channel, RepairAsk(app=app), source, Hears(states)).answers
            return answer
    with opened(paths) as acceptor:
        return note_of(acceptor.repair(app, source, Reports(states)))


def trust_folder(paths: Paths, folder: Path) -> TrustNote:
    """Return what this node took of the trust files in `folder`."""
    if not (folder / "metadata").is_dir():
        raise Misuse(str(folder), expected="a folder with metadata/", got="another")
    source = TrustFolderSource(folder)
    try:
        channel = to_apply(paths)
    except Unavailable as absent:
        if absent.reason != "agent-not-running":
            raise
    else:
        with channel:
            found = converse(channel, TrustAsk(), source, Deaf()).trusted
        if found is None:
            raise Failed("apply", expected="a word on the trust files", got="none")
        return found
    with opened(paths) as acceptor:
        return trusted(acceptor.trust(source))
