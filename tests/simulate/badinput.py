"""The bad inputs of tests/vectors/door, and a door to say them to: a node on which version 1.0
runs, its desk on the real socket, and whoever talks to it as fetch does.

door = Door(folder)
with refused(door, vector, caplog) as say:   # as the vector says, told once, nothing changed
    say(door.poll(source))
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import pytest

from embrasure.errors import EmbrasureError
from embrasure.trust import canonical
from embrasure.trust.source import Source
from node.answering import Deaf, converse
from node.desk import Desk
from node.ipc import SOCKET, Listener, to_apply
from node.logs import FIELDS
from node.messages import Message, PollAsk
from node.records import NodeRecords
from tests.simulate.installer import Confirms, SimInstaller
from tests.simulate.releases import SimRelease

FOLDER = Path(__file__).parent.parent / "vectors" / "door"


class Expected(TypedDict):
    """How the node refuses it."""

    answer: str  # what the door says
    names: str  # what log or receipt names


class Without(TypedDict):
    """The same once more without its guard."""

    guard: str | None  # dotted name in the product; None: nothing on a node is harmed by it
    again: list[str]  # dotted names of what checks the same once more behind it
    then: str  # what the door says without them
    behind: str  # what stops it further on, in words of log or record; "" when nothing does


class Vector(TypedDict):
    """One file of tests/vectors/door."""

    id: str
    title: str
    source: str
    input: dict[str, Any]  # one member: what kind of input, and what it is
    expected: Expected
    without: Without


VECTORS: list[Vector] = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("B*.json"))]


def of(kind: str, *, refused: bool = True) -> list[Any]:
    """Return the vectors of a kind; refused: those that have a guard, or those that do no harm."""
    return [pytest.param(v, id=v["id"]) for v in VECTORS
            if kind in v["input"] and (v["without"]["guard"] is not None) is refused]  # fmt: skip


class Door:
    """A node with its desk, and whoever talks to it as fetch does."""

    def __init__(self, folder: Path) -> None:
        self.bench = SimInstaller(folder)
        self.paths, self.repo = self.bench.paths, self.bench.repo
        self.version = 0
        self.oseq = 10
        self.said: list[str] = []  # what whoever asked was told as an error
        self.listener = Listener(self.paths.run, SOCKET)
        self.stop = threading.Event()
        desk = Desk(self.bench.acceptor, NodeRecords(self.paths), allowed=frozenset({os.geteuid()}))
        self.thread = threading.Thread(target=desk.serve, args=(self.listener, self.stop))
        self.thread.start()
        (self.paths.prefix / "theirs").mkdir()
        self.honest()

    def close(self) -> None:
        """Nobody listens any more."""
        self.stop.set()
        self.thread.join()
        self.listener.close()
        self.bench.close()

    def say(self, ask: Message, source: Source | None = None) -> str:
        """Return what the door answers, `kind reason`, or what it raises."""
        try:
            with to_apply(self.paths) as channel:
                heard = converse(channel, ask, source or self.bench.source(), Deaf())
        except EmbrasureError as problem:
            self.said.append(f"{problem} [{problem.word}]")
            return f"raised {problem.reason}"
        answer = heard.answers[0]
        return f"{answer.kind} {answer.reason}".strip()

    def poll(self, source: Source | None = None) -> str:
        """Return what becomes of a look at the mirror."""
        return self.say(PollAsk(), source)

    def decides(self) -> str:
        """Return the verdict on what is published, as every install asks for it first."""
        return self.bench.acceptor._judged("shop", self.bench.source()).verdict.kind

    def obeys(self, envelope: bytes) -> str:
        """Return what becomes of an order whose gateway confirms."""
        bench = self.bench
        return bench.acceptor.order(envelope, bench.source(), Confirms(bench)).kind

    def honest(self) -> None:
        """The next honest release installs and answers."""
        self.version += 1
        self.bench.publish(f"{self.version}.0")
        assert self.poll() == "committed"
        assert self.bench.ask() == f"{self.version}.0"

    def publish(self, raw: bytes, release: SimRelease) -> None:
        """A manifest of these very bytes is approved, planned and open for this node."""
        made = SimRelease(release.manifest, raw, canonical.sha256_hex(raw), release.blobs)
        self.bench.publish(release=made)

    def state(self, *, begun: bool) -> dict[str, object]:
        """Return all that must not change: the app's folder, what the owner and the node itself
        wrote, and what lies beside the node. Not what an honest refusal writes.

        begun: a transaction was, and went no further
        """
        paths = self.paths
        told = {paths.outbox, paths.state / "alarms.json", paths.logs}
        risen = {paths.tuf, paths.floors, paths.told}  # with what verified on the way
        passed = told | risen | ({paths.journal, paths.blobs} if begun else set())
        # Names come and go in these: staging, and a file before it takes the place of another.
        busy = {paths.releases("shop"), paths.state}
        inside = (path for top in (paths.app("shop"), paths.config, paths.data)
                  for path in top.rglob("*"))  # fmt: skip
        found: dict[str, object] = {}
        for path in sorted([*inside, *paths.prefix.parent.iterdir()]):
            if path in busy | passed or passed & set(path.parents):
                continue
            about, link = path.lstat(), path.readlink() if path.is_symlink() else None
            found[str(path)] = (about.st_mode, about.st_ino, about.st_mtime_ns, link)
        return found

    def told(self) -> int:
        """Return how many receipts the node has written."""
        return len(self.bench.told())


@contextmanager
def refused(
    door: Door, vector: Vector, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[[str], None]]:
    """What happens inside changes nothing, is answered as the vector says, told once, and named."""
    begun = vector["expected"]["answer"].startswith("rejected")
    before, told = door.state(begun=begun), door.told()
    running = door.bench.supervisor.running("shop")
    answers: list[str] = []
    with caplog.at_level(logging.INFO, logger="node"):
        caplog.clear()
        yield answers.append
        # Who is turned away before he speaks is told himself.
        lines = logged(caplog) + (door.said if "raised" in answers[0] else [])
    assert answers == [vector["expected"]["answer"]]
    assert door.state(begun=begun) == before
    assert door.bench.supervisor.running("shop") == running
    assert not list(door.paths.releases("shop").glob(".*"))
    word = vector["expected"]["names"]
    record = door.bench.acceptor._ground.journal.read("shop").record
    journal = record.detail if record and answers[0].startswith("rejected") else ""
    named = [text for text in (*lines, journal) if words(word) & words(text)]
    assert named or not word, (lines, journal)
    assert door.told() - told <= 1


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the node logged since the last `clear`."""
    return [f"{one.getMessage()} {vars(one).get(FIELDS)}" for one in caplog.records]


def words(text: str) -> set[str]:
    """Return the reason words in a line: `bad-path` and `E_BAD_PATH` are one."""
    return {w.lower().removeprefix("e_").replace("_", "-") for w in re.findall(r"[\w-]+", text)}


def names_of(vector: Vector) -> list[str]:
    """Return the guard of a vector, and what checks the same again behind it."""
    guard = vector["without"]["guard"]
    return [guard, *vector["without"]["again"]] if guard else []
