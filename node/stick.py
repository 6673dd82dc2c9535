"""`embrasure node apply` and `node trust`: a folder as the source of one look; the same doors.

The running agent's apply does it; when none runs, this process is the node's apply for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from embrasure.bundle.packing import PackedSource
from embrasure.errors import Denied, Failed, Misuse, Unavailable
from embrasure.trust.folder import FolderSource
from embrasure.trust.listing import TrustFolderSource
from node.answering import Deaf, NoSource, converse
from node.apply_main import opened, recover
from node.confirm_messages import AwaitsNote, LocalAsk, RepairAsk
from node.desk import note_of, trusted
from node.ipc import Channel, to_apply
from node.messages import (
    AnswerNote,
    FromApply,
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


def running(paths: Paths) -> AbstractContextManager[Channel[FromApply] | None]:
    """Return a conversation with the apply of the agent that runs here, of None when none does.

    Raises Unavailable for an agent that does not answer.
    """
    try:
        return to_apply(paths)
    except Unavailable as absent:
        if absent.reason != "agent-not-running":
            raise
        return nullcontext()


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """A file of `folder` that apply may not read is told as such; raises Denied.

    In production apply gives up what lets root read the files of others. A running agent does not
    read the folder: whoever called the verb does.
    """
    try:
        yield
    except Denied as problem:
        if problem.reason != "permissions" or not problem.thing.startswith(str(folder)):
            raise
        raise Denied(
            problem.thing, expected="a folder of root, or one that everybody may read",
            got=problem.got, reason="permissions",
            hint="start the node first, which lets you read it; or mount it with uid=0",
        ) from None  # fmt: skip


def apply_folder(paths: Paths, folder: Path, say: Say) -> list[AnswerNote]:
    """Return what became of each app after one look into the repository at `folder`."""
    if not (folder / "metadata").is_dir():
        raise Misuse(str(folder), expected="a repository: a folder with metadata/", got="another",
                     hint="name the folder above metadata/")  # fmt: skip
    source, states = PackedSource(FolderSource(folder)), States(say)
    with running(paths) as channel:
        if channel is not None:
            return converse(channel, LocalAsk(), source, Hears(states)).answers
    with opened(paths) as acceptor, readable(folder):
        recover(acceptor)
        found = acceptor.poll(source, Reports(states), is_local=True)
        answers = [note_of(answer) for answer in found]
    say("no agent runs here, so the apps are stopped again: embrasure node run")
    return answers


def repair(paths: Paths, app: str, folder: Path | None, say: Say) -> AnswerNote:
    """Return what became of the app's committed release; `folder`: where lost files may lie."""
    source = NoSource() if folder is None else FolderSource(folder)
    states = States(say)
    with running(paths) as channel:
        if channel is not None:
            (answer,) = converse(channel, RepairAsk(app=app), source, Hears(states)).answers
            return answer
    with opened(paths) as acceptor:
        return note_of(acceptor.repair(app, source, Reports(states)))


def trust_folder(paths: Paths, folder: Path) -> TrustNote:
    """Return what this node took of the trust files in `folder`."""
    if not (folder / "metadata").is_dir():
        raise Misuse(str(folder), expected="a folder with metadata/", got="another",
                     hint="name the folder above metadata/")  # fmt: skip
    source = TrustFolderSource(folder)
    with running(paths) as channel:
        if channel is not None:
            found = converse(channel, TrustAsk(), source, Deaf()).trusted
            if found is None:
                raise Failed("apply", expected="a word on the trust files", got="none",
                             hint="read its log, then try again")  # fmt: skip
            return found
    with opened(paths) as acceptor:
        return trusted(acceptor.trust(source))
