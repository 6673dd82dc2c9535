"""The model of lost writes: what a power cut may leave of operations that were not synced yet.

One real act is recorded at the port to the disk. Behind any prefix of it a crash may keep any legal
part of what is not on disk: bytes of a file (old, none, half, zeros, all), names of a folder (each
made, changed or removed name, as far as it does not stand on one that was lost; a rename within one
folder as a whole). Each state is built as a real folder, and the node's own recovery runs on it.

Only `fsync` of the very file or folder, and `syncfs`, put anything on disk: POSIX promises no more.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from embrasure.fsops import Op
from tests.simulate.faults import is_on_disk

Node = int
Key = tuple[Node, str]  # a name in a folder
ROOT: Node = 0
WHOLE = 8  # changes of names: 256 parts
_LINKED = (".blobs", "releases", "trusted")  # never written in place: a second name will do


@dataclass(frozen=True, slots=True)
class Inode:
    """What a node is at one moment. data: bytes, or where they lie; target: of a link."""

    kind: str  # file, folder, link
    mode: int = 0
    data: bytes | Path = b""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Names:
    """One atomic change of names: each is set to a node, or to none."""

    sets: tuple[tuple[Key, Node | None], ...]

    @property
    def folders(self) -> frozenset[Node]:
        """The folders that it is in."""
        return frozenset(folder for (folder, _), _ in self.sets)


@dataclass(frozen=True, slots=True)
class Event:
    """One recorded step. inode: what `node` is from now on; sync: `node` is on disk, None: all."""

    call: str
    names: tuple[Names, ...] = ()
    node: Node | None = None
    inode: Inode | None = None
    is_sync: bool = False


class Recorder:
    """Watches the port while an act runs on the folder."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self.inodes: dict[Node, Inode] = {}
        self.names: dict[Key, Node] = {}
        self.told: list[tuple[int, bytes]] = []  # after how many events a receipt was handed out
        self._ids: dict[int, Node] = {}
        self._next = ROOT
        self._moved: Node | None = None
        self._add(folder)
        # What is there when it begins is on disk.
        self.first = dict(self.inodes), dict(self.names)

    def _add(self, path: Path) -> Node:
        found = path.lstat()
        node = self._fresh(found.st_ino)
        if stat.S_ISLNK(found.st_mode):
            self.inodes[node] = Inode("link", target=str(path.readlink()))
        elif stat.S_ISDIR(found.st_mode):
            self.inodes[node] = Inode("folder", stat.S_IMODE(found.st_mode))
            for inner in sorted(path.iterdir()):
                self.names[node, inner.name] = self._add(inner)
        else:
            data = path if set(_LINKED) & set(path.parts) else path.read_bytes()
            self.inodes[node] = Inode("file", stat.S_IMODE(found.st_mode), data)
        return node

    def _fresh(self, number: int) -> Node:
        node = self._ids[number] = self._next
        self._next += 1
        return node

    def receipt(self, signed: bytes) -> None:
        """A receipt was handed out now."""
        self.told.append((len(self.events), signed))

    def before(self, op: Op) -> int | None:
        if op.call == "rename" and is_on_disk(op):
            self._moved = self.names.get((self._id(op.fd), op.name))
        return None

    def after(self, op: Op, result: int) -> None:
        if not is_on_disk(op) or op.call in ("allocate", "touch", "chown"):
            return
        if op.call in ("fsync", "syncfs"):
            node = None if op.call == "syncfs" else self._id(op.fd)
            self.events.append(Event(op.call, node=node, is_sync=True))
        elif op.call in ("write", "truncate", "clone", "chmod"):
            self._changed(op)
        elif op.call == "create":
            self._created(op, result)
        else:
            self._named(op)

    def _id(self, fd: int) -> Node:
        return self._ids[os.fstat(fd).st_ino]

    def _changed(self, op: Op) -> None:
        here = Path(f"/proc/self/fd/{op.fd}") / op.name
        found = here.stat()
        node, mode = self._ids[found.st_ino], stat.S_IMODE(found.st_mode)
        old = self.inodes[node]
        data = here.read_bytes() if old.kind == "file" else b""
        self._become(op.call, node, Inode(old.kind, mode, data))

    def _become(self, call: str, node: Node, inode: Inode) -> None:
        self.inodes[node] = inode
        self.events.append(Event(call, node=node, inode=inode))

    def _created(self, op: Op, fd: int) -> None:
        key = self._id(op.fd), op.name
        if key in self.names:
            return  # opened for appending: it was there
        node = self._fresh(os.fstat(fd).st_ino)
        self._become("create", node, Inode("file", stat.S_IMODE(os.fstat(fd).st_mode)))
        self._set("create", (Names(((key, node),)),))

    def _named(self, op: Op) -> None:
        key = self._id(op.fd), op.name
        if op.call in ("mkdir", "symlink"):
            found = os.stat(op.name, dir_fd=op.fd, follow_symlinks=False)
            node = self._fresh(found.st_ino)
            kind = "folder" if op.call == "mkdir" else "link"
            self._become(op.call, node, Inode(kind, stat.S_IMODE(found.st_mode), target=op.target))
            self._set(op.call, (Names(((key, node),)),))
        elif op.call in ("unlink", "rmdir"):
            self._set(op.call, (Names(((key, None),)),))
        elif op.call == "link":
            self._set("link", (Names((((self._id(op.to_fd), op.new), self.names[key]),)),))
        elif op.call == "rename":
            new = self._id(op.to_fd), op.new
            made, gone = (new, self._moved), (key, None)
            same = new[0] == key[0]
            parts = (Names((made, gone)),) if same else (Names((made,)), Names((gone,)))
            self._set("rename", parts)
        else:
            raise AssertionError(f"the model does not know {op.call}")

    def _set(self, call: str, parts: tuple[Names, ...]) -> None:
        for names in parts:
            for key, node in names.sets:
                _set(self.names, key, node)
        self.events.append(Event(call, names=parts))


@dataclass
class Disk:
    """What is on disk for certain, and what is on its way, behind some events."""

    inodes: dict[Node, Inode]
    names: dict[Key, Node]
    changed: dict[Node, list[Inode]] = field(default_factory=dict)  # versions, not on disk
    pending: list[Names] = field(default_factory=list)
    mark: int = 0  # of what is on disk: every part's hash, combined; tells two states apart

    def apply(self, event: Event) -> None:
        """One more event."""
        if event.is_sync:
            self._sync(event.node)
        elif event.inode is not None and event.node is not None:
            self.changed.setdefault(event.node, []).append(event.inode)
        self.pending += event.names

    def _sync(self, node: Node | None) -> None:
        for number in list(self.changed):
            if node in (None, number):
                new = self.changed.pop(number)[-1]
                self.mark ^= _part(number, self.inodes.get(number)) ^ _part(number, new)
                self.inodes[number] = new
        kept: list[Names] = []
        for names in self.pending:
            if node is None or node in names.folders:
                self._keep(names)
            else:
                kept.append(names)
        self.pending = kept

    def _keep(self, names: Names) -> None:
        for key, node in names.sets:
            self.mark ^= _part(key, self.names.get(key)) ^ _part(key, node)
            _set(self.names, key, node)

    # What a crash may leave

    def closed(self, wanted: set[int]) -> list[Names]:
        """Return the wanted changes of names, without those that stand on one not wanted."""
        lost: set[Key] = set()
        kept: list[Names] = []
        for number, names in enumerate(self.pending):
            keys = {key for key, _ in names.sets}
            if number in wanted and not keys & lost and self._has_source(names, kept):
                kept.append(names)
            else:
                lost |= keys
        return kept

    def _has_source(self, names: Names, kept: list[Names]) -> bool:
        """The old name of a file that moved between folders goes only after its new one is there:
        else a crash would lose the file, which no file system does.
        """
        number = self.pending.index(names)
        before = self.pending[number - 1] if number else None
        halves = len(names.sets) == 1 and names.sets[0][1] is None and before is not None
        if not halves or before is None or before.sets[0][1] is None:
            return True
        moved = self.names.get(names.sets[0][0])
        is_half = len(before.sets) == 1 and before.sets[0][1] == moved
        return not is_half or before in kept

    @property
    def is_whole(self) -> bool:
        """Whether so few names are not on disk that every part of them is tried."""
        return len(self.pending) <= WHOLE

    def choices(self, chosen: random.Random, *, more: int) -> Iterator[tuple[list[Names], str]]:
        """Yield what a crash may keep of the names, with a word for the bytes of files: every part
        of up to `WHOLE` changes; of more all, none, all but one, one alone, and any.
        """
        every = set(range(len(self.pending)))
        subsets: list[set[int]] = [every, set()]
        if self.is_whole:
            subsets += [set(some) for n in range(1, len(every)) for some in combinations(every, n)]
        else:
            subsets += [every - {number} for number in every]
            subsets += [{number} for number in every]
            subsets += [{n for n in every if chosen.random() < 0.5} for _ in range(more)]
        for subset in subsets[:1]:
            for how in ("new", "old", "empty", "half", "zeros", "any"):
                yield self.closed(subset), how
        for subset in subsets[1:]:
            yield self.closed(subset), chosen.choice(("new", "old", "empty", "zeros", "any"))

    def state(self, kept: Sequence[Names], how: str, chosen: random.Random) -> State:
        """Return the state with these changes of names and these bytes."""
        names, inodes, mark = dict(self.names), dict(self.inodes), self.mark
        for change in kept:
            for key, node in change.sets:
                mark ^= _part(key, names.get(key)) ^ _part(key, node)
                _set(names, key, node)
        there = set(names.values())
        for node, versions in self.changed.items():
            if node not in there and node != ROOT:
                continue  # nobody can see it
            word = chosen.choice(("new", "old", "empty", "half", "zeros")) if how == "any" else how
            left = self._left(node, versions, word)
            mark ^= _part(node, inodes.get(node)) ^ _part(node, left)
            inodes[node] = left
        return State(inodes, names, mark)

    def _left(self, node: Node, versions: Sequence[Inode], how: str) -> Inode:
        last, old = versions[-1], self.inodes.get(node)
        if last.kind != "file" or how == "new":
            # A folder or link that a name keeps is there; its mode may be the first one.
            return versions[0] if how != "new" and old is None else last
        if how == "old":
            return old if old is not None else Inode("file", versions[0].mode)
        data, held = _bytes(last), _bytes(old) if old is not None else b""
        # What is on disk already stays: a new mode, or bytes behind the end, take nothing away.
        held = held if data.startswith(held) else b""
        rest = data[len(held) :]
        left = {"empty": b"", "half": rest[: len(rest) // 2], "zeros": bytes(len(rest))}[how]
        return Inode("file", last.mode, held + left if rest else last.data)


def _bytes(inode: Inode) -> bytes:
    return inode.data if isinstance(inode.data, bytes) else inode.data.read_bytes()


def _part(key: object, value: object) -> int:
    return 0 if value is None else hash((key, value))


def _set(names: dict[Key, Node], key: Key, node: Node | None) -> None:
    if node is None:
        names.pop(key, None)
    else:
        names[key] = node


@dataclass(frozen=True)
class State:
    """A whole tree. mark: equal for equal trees."""

    inodes: dict[Node, Inode]
    names: dict[Key, Node]
    mark: int

    def _walk(self, folder: Node, prefix: str) -> Iterator[tuple[str, Inode]]:
        below: dict[Node, list[tuple[str, Node]]] = {}
        for (held, name), node in self.names.items():
            below.setdefault(held, []).append((name, node))
        todo = [(folder, prefix)]
        while todo:
            held, before = todo.pop()
            for name, node in below.get(held, ()):
                inode = self.inodes[node]
                yield f"{before}{name}", inode
                if inode.kind == "folder":
                    todo.append((node, f"{before}{name}/"))

    def build(self, folder: Path, at: Callable[[Path], Path]) -> None:
        """The folder, which is not there yet, is this state. at: where recorded bytes lie now."""
        folder.mkdir(mode=0o755)
        modes: list[tuple[Path, int]] = []
        for path, inode in self._walk(ROOT, ""):
            place = folder / path
            if inode.kind == "folder":
                place.mkdir()
                modes.append((place, inode.mode))
            elif inode.kind == "link":
                place.symlink_to(inode.target)
            elif isinstance(inode.data, Path):
                place.hardlink_to(at(inode.data))
            else:
                place.write_bytes(inode.data)
                place.chmod(inode.mode)
        for place, mode in reversed(modes):
            place.chmod(mode)


@dataclass(frozen=True)
class Crash:
    """One state, behind `at` events, and the receipts that were handed out by then; is_whole: every
    part of the names that are not on disk there is tried.
    """

    at: int
    what: str
    state: State
    told: tuple[bytes, ...]
    is_whole: bool


def crashes(
    recorder: Recorder,
    *,
    seed: int,
    more: int,
    keep: Callable[[Event, Recorder], bool] = lambda event, recorder: True,
) -> Iterator[Crash]:
    """Yield every different state that a crash behind any prefix may leave.

    keep: False for a sync that shall not have been made (a control)
    """
    chosen = random.Random(seed)  # noqa: S311  # a choice of cases, no secret
    disk, seen = Disk(dict(recorder.first[0]), dict(recorder.first[1])), set[tuple[int, int]]()
    for at in range(len(recorder.events) + 1):
        told = tuple(signed for when, signed in recorder.told if when <= at)
        for kept, how in disk.choices(chosen, more=more):
            state = disk.state(kept, how, chosen)
            if (state.mark, len(told)) not in seen:
                seen.add((state.mark, len(told)))
                call = recorder.events[at - 1].call if at else "the beginning"
                what = f"behind {at} ({call}), {len(kept)}/{len(disk.pending)} names, {how} bytes"
                yield Crash(at, what, state, told, disk.is_whole)
        if at < len(recorder.events) and keep(recorder.events[at], recorder):
            disk.apply(recorder.events[at])
